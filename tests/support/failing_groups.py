"""Training groups one of whose processes fails alone, while the first one waits for its gradients."""

from puma_engine.jobs import training_group
from puma_engine.jobs.training_group import TrainingGroup

training_group.ALONE_SECONDS = 1.0


class FailingGroup(TrainingGroup):
    """The second process gets a device that there is not."""

    def register(self, rank, info):
        task = super().register(rank, info)
        return task | {"device": "cuda"} if rank == 1 else task
