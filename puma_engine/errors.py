"""All exceptions of the package.

A message has one or two sentences: what was given, what is allowed, what to do.
"""


class PumaError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(PumaError):
    """A setting, or a combination of settings, is not allowed."""


class DataError(PumaError):
    """Interactions or items cannot be used as they are."""


class TemplateError(PumaError):
    """A template lacks a slot, or a text does not fit in its budget."""


class BackboneError(PumaError):
    """A language model or its tokenizer cannot serve as a backbone."""


class SelectionError(PumaError):
    """Users cannot be selected with these settings or signals."""


class TrainingError(PumaError):
    """A training cannot continue."""


class MigrationError(PumaError):
    """Prompts cannot be migrated as asked."""


class StoreError(PumaError):
    """A workspace, or a report of a study, cannot be read or written."""


class NotFoundError(StoreError):
    """A name or id is unknown in the workspace."""


class CheckpointError(StoreError):
    """A checkpoint is damaged or belongs to another run."""


class StudyError(PumaError):
    """Some cells of a study failed."""


class JobError(PumaError):
    """A job cannot be queued, run or controlled."""


class Cancelled(PumaError):
    """Work stopped because it was cancelled; its checkpoint stays."""
