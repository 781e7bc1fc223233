"""What the planner of a package makes of the plan that the rules made, checked."""

from core.domain.dataset import DatasetDescription
from core.domain.fingerprint import Fingerprint
from core.domain.plan import Plan, plan_error
from core.errors import ExtensionError
from core.planning.check import plan_mistakes
from core.planning.presets import Revise


def revised(made: Plan, revise: Revise, fingerprint: Fingerprint, description: DatasetDescription) -> Plan:
    """Let the planner of a package change a plan.

    Args:
        made: By the rules.
        revise: Of the package.
        fingerprint: Of the dataset.
        description: Its dataset.json.

    Raises:
        ExtensionError: It returns no plan.
        PlanError: It returns one that contradicts itself; every mistake is named.
    """
    found: object = revise(made, fingerprint, description)
    if not isinstance(found, Plan):
        raise ExtensionError(
            f"the planner {made.experiment_planner_used} returns a {type(found).__name__} instead of a Plan; "
            "update the package that adds it"
        )
    mistakes = plan_mistakes(found.to_json(), description)
    if mistakes:
        raise plan_error(mistakes)
    return found
