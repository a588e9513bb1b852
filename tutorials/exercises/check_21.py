"""The checks of lesson 21's exercises, for your answers and for ours."""


def check_normalized_score(answers) -> None:
    found = answers.normalized_score([0.7, 0.9], [0.5, 0.5], [0.9, 1.0])
    assert abs(found - 0.65) < 1e-9, f"seed by seed 0.5 and 0.8, their mean 0.65, found {found} (means first would give 0.667)"


def check_pareto_front(answers) -> None:
    score = {"full": 0.9, "lora": 0.9, "head": 0.6, "prompt": 0.6, "lost": 0.5}
    cost = {"full": 480, "lora": 82, "head": 1, "prompt": 6, "lost": 7}
    found = set(answers.pareto_front(score, cost))
    assert "full" not in found, "lora is as good and cheaper: equal in one and better in the other is enough"
    assert found == {"lora", "head"}, f"head beats prompt and lost; found {sorted(found)}"
    same = {"a": 1.0, "b": 1.0}
    assert set(answers.pareto_front(same, same)) == {"a", "b"}, "equal in both: neither beats the other"


def check_tasks_until_smaller(answers) -> None:
    assert answers.tasks_until_smaller(480, 82, 480) == 2, "one task: 562 against 480; two: 644 against 960"
    assert answers.tasks_until_smaller(100, 10, 60) == 3, "two tasks: 120 against 120 is no less"
    assert answers.tasks_until_smaller(480, 500, 480) is None, "an adapter larger than a model never pays"
