"""Storage that fsspec reaches and all processes of this machine share: shared:///FOLDER."""

from fsspec.implementations.local import LocalFileSystem


class SharedStorage(LocalFileSystem):
    """Folders of this machine under the protocol of a remote storage."""

    protocol = "shared"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("shared://"))
