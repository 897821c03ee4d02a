"""Which models are compared head to head, each with what."""

from stages.config import REFERENCES
from stages.config.whole import Config


def matches(config: Config) -> list[tuple[int, str]]:
    """Numbers of models with what each is compared with: that of another one, or `references`. Each iteration's model
    meets the one before and model 0, and every model the references, if they are to be met."""
    section, iterations = config.evaluate.head_to_head, config.run.iterations
    if not section.enabled:
        return []
    models = [(model, str(other)) for model in range(1, iterations + 1) for other in sorted({0, model - 1})]
    return models + [(model, REFERENCES) for model in range(iterations + 1) if section.references]
