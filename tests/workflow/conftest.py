"""What several tests start from."""

from tests.support.finished_run import finished, first_iteration

__all__ = ["finished", "first_iteration"]
