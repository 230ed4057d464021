"""Study files: what they may say, and how a fault is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.errors import DataError, StudyError
from luthier.settings import Choose
from luthier.steps import FewShotStep, PromptStep, SftStep
from luthier.study import Approach, Study, build_study, load_study, study_as_json
from luthier.study.initial import initial_study

GOOD = """\
model: some/model
task:
  data: rows.csv
  prompt: "{{ text }}"
  completion: "{{ kind }}"
  labels: auto
approaches:
  zero-shot: []
  few-shot+lora:
    - {step: few-shot, shots: {choose: [4, 8]}, by: bm25}
    - {step: sft, adapter: {rank: 8}, learning_rate: 1e-3}
"""
Load = Callable[..., Study]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the good study with one text replaced by another, or with lines behind it."""

    def call(old: str = "", new: str = "", *, sets: tuple[str, ...] = ()) -> Study:
        assert old in GOOD
        (tmp_path / "study.yaml").write_text(GOOD.replace(old, new) if old else GOOD + new)
        return load_study(tmp_path / "study.yaml", sets)

    return call


@pytest.fixture
def fault(load: Load) -> Callable[..., str]:
    def call(old: str = "", new: str = "", *, sets: tuple[str, ...] = ()) -> str:
        with pytest.raises(StudyError) as caught:
            load(old, new, sets=sets)
        return str(caught.value)

    return call


Fault = Callable[..., str]


def test_a_study_says_what_its_file_says(load: Load):
    study = load()
    assert (study.name, study.model, study.targets) == ("study", "some/model", ("task",))
    assert study.tasks["task"].labels == "auto"
    assert study.approaches["zero-shot"] == Approach()
    shots, sft = study.approaches["few-shot+lora"].steps
    assert isinstance(shots, FewShotStep)
    assert isinstance(shots.shots, Choose)
    assert shots.shots.choose == (4, 8)
    assert sft == SftStep(adapter={"rank": 8}, learning_rate=1e-3)  # YAML takes 1e-3 for a text
    assert [approach.trains for approach in study.approaches.values()] == [False, True]


def test_approaches_and_steps_have_short_forms(load: Load):
    study = load("  zero-shot: []\n", "  a: [prompt, sft]\n  b: {steps: [few-shot], model: other}\n")
    assert study.approaches["a"].steps == (PromptStep(), SftStep())
    assert study.approaches["b"] == Approach(steps=(FewShotStep(),), model="other")


def test_a_study_built_in_python_is_the_one_of_the_file(load: Load):
    built = build_study(
        name="study",
        model="some/model",
        task={"data": "rows.csv", "prompt": "{{ text }}", "completion": "{{ kind }}", "labels": "auto"},
        approaches={
            "zero-shot": [],
            "few-shot+lora": [
                FewShotStep(shots={"choose": [4, 8]}, by="bm25"),
                SftStep(adapter={"rank": 8}, learning_rate=1e-3),
            ],
        },
    )
    assert built == load()
    with pytest.raises(StudyError, match=r"^study: modle: unknown key; did you mean 'model'\?"):
        build_study(modle="m", task={"data": "rows.csv"}, approaches={"a": []})


def test_the_resolved_form_is_a_study_again(load: Load):
    study = load("labels: auto", "labels: auto\n  answer: choose")
    row = study_as_json(study)
    assert row["approaches"]["few-shot+lora"]["steps"][1]["batch_size"] == SftStep().batch_size
    assert build_study(**row) == study


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("", "seeed: 1\n", 12, "seeed: unknown key; did you mean 'seed'?"),
        ("labels: auto", "lables: auto", 6, "task.lables: unknown key; did you mean 'labels'?"),
        ("rank: 8", "rnk: 8", 11, "approaches.few-shot+lora.1.adapter.rnk: unknown key; did you mean 'rank'?"),
        ("data: rows.csv", "data: {trian: a.csv}", 3, "task.data.trian: unknown key; did you mean 'train'?"),
        ("{choose: [4, 8]}", "{chose: [4, 8]}", 10, "shots.chose: unknown key; did you mean 'choose'?"),
        ("model: some/model", "modle: some/model", 1, "modle: unknown key; did you mean 'model'?"),
    ],
)
def test_an_unknown_key_names_its_line_and_the_nearest(fault: Fault, old: str, new: str, line: int, said: str):
    message = fault(old, new)
    assert message.startswith(f"study.yaml:{line}: ")
    assert said in message
    assert "(known here: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "model: some/model\n",
            "",
            "study.yaml:1: the study: model is missing, and zero-shot, few-shot+lora need a language model; name one, "
            "such as model: smollm2-135m-instruct.",
        ),
        (
            "rank: 8",
            "rank: 0",
            "study.yaml:11: approaches.few-shot+lora.1.adapter.rank: input should be greater than 0; found 0.",
        ),
        ("[4, 8]", "[]", "study.yaml:10: approaches.few-shot+lora.0.shots.choose: give at least 2; found []."),
        ("[4, 8]", "[4]", "study.yaml:10: approaches.few-shot+lora.0.shots.choose: give at least 2; found [4]."),
        ("[4, 8]", "4", "study.yaml:10: approaches.few-shot+lora.0.shots.choose: input should be a list; found 4."),
        (
            "[4, 8]",
            "[4, -8]",
            "study.yaml:10: approaches.few-shot+lora.0.shots.choose.1: input should be greater than or equal to 0; "
            "found -8.",
        ),
        (
            "rank: 8",
            "targets: q_proj",
            "study.yaml:11: approaches.few-shot+lora.1.adapter.targets: input should be 'all-linear', or input should "
            "be a list; found 'q_proj'.",
        ),
        (
            "adapter: {rank: 8}",
            "adapter: dora, rank: 8",
            "study.yaml:11: approaches.few-shot+lora.1: rank is a setting of the adapter; write adapter: {kind: dora, "
            "rank: 8}.",
        ),
        (
            "{rank: 8}",
            "lore",
            "study.yaml:11: approaches.few-shot+lora.1.adapter: unknown adapter 'lore'; the adapters are 'lora', "
            "'ia3', 'prompt-tuning', 'prefix-tuning', 'last-layers', 'head', 'biases-and-norms', 'peft', 'none'.",
        ),
        (
            "{rank: 8}",
            "8",
            "study.yaml:11: approaches.few-shot+lora.1.adapter: an adapter is the name of a kind or a mapping of its "
            "settings; found 8.",
        ),
        (
            "{rank: 8}",
            "{choose: [lora, {kind: ia3, rank: 8}]}",
            "study.yaml:11: approaches.few-shot+lora.1.adapter.choose.1.rank: unknown key; (known here: kind).",
        ),
        (
            "labels: auto",
            "answer: choose",
            "study.yaml:2: task: answer: choose chooses among labels, but labels is null; set labels to auto or to a "
            "list.",
        ),
        (
            "labels: auto",
            "metric: token_f2",
            "study.yaml:2: task: metric 'token_f2' is not known. Did you mean token_f1? Your own is written "
            "'file.py:function'.",
        ),
        (
            "step: sft",
            "step: stf",
            "study.yaml:11: approaches.few-shot+lora.1: unknown step 'stf'; the steps are 'prompt', 'few-shot', "
            "'nearest', 'classifier', 'rule', 'rag', 'retriever', 'reranker', 'sft', 'pretrain', 'interpolate', "
            "'merge', 'route'.",
        ),
        (
            "{step: sft, adapter: {rank: 8}, learning_rate: 1e-3}",
            "{rank: 8}",
            "study.yaml:11: approaches.few-shot+lora.1: a step is a mapping with the key 'step', such as {step: sft, "
            "adapter: lora}; found {'rank': 8}.",
        ),
        (
            "zero-shot: []",
            "zero-shot:",
            "study.yaml:8: approaches.zero-shot: an approach is a list of steps ([] is the base model as it is); found "
            "None.",
        ),
        ("", "target: tsk\n", "study.yaml:12: target: 'tsk' is no task of this study (there are: task)."),
        (
            "",
            "tasks: {}\n",
            "study.yaml:1: the study: both task and tasks are given; move the task into tasks, under a name.",
        ),
        (
            "zero-shot: []",
            "a/b: []",
            "study.yaml:7: approaches: 'a/b' cannot name a folder; use letters, digits, '+', '-' and '_'.",
        ),
        (
            "zero-shot: []",
            "Few-Shot+LoRA: []",
            "study.yaml:7: approaches: few-shot+lora stands twice if upper and lower case are not told apart.",
        ),
        (
            "",
            "seed: 1\nseed: 2\n",
            "study.yaml:13: the key 'seed' stands here again (first in line 12); YAML would silently keep the last. "
            "Remove one.",
        ),
        (
            "rank: 8",
            "rank: 8, rank: 8",
            "study.yaml:11: the key 'rank' stands here again (first in line 11); YAML would silently keep the last. "
            "Remove one.",
        ),
    ],
)
def test_one_fault_is_one_line_that_names_its_place(fault: Fault, old: str, new: str, message: str):
    assert fault(old, new) == message


def test_every_fault_is_named_at_once(fault: Fault):
    rank, epochs, unknown = fault("{rank: 8}", "{rank: 0}, epochs: -1, bach_size: 4").splitlines()
    assert rank == "study.yaml:11: approaches.few-shot+lora.1.adapter.rank: input should be greater than 0; found 0."
    assert epochs == "study.yaml:11: approaches.few-shot+lora.1.epochs: input should be greater than 0; found -1."
    known = ", ".join(sorted(SftStep.model_fields))
    assert unknown == (
        "study.yaml:11: approaches.few-shot+lora.1.bach_size: unknown key; did you mean 'batch_size'? "
        f"(known here: {known})."
    )


def test_several_tasks_need_a_target(load: Load, fault: Fault):
    row = '{data: rows.csv, prompt: "{{ a }}", completion: "{{ b }}"}'
    tasks = f"tasks:\n  one: {row}\n  two: {row}\n"
    task = GOOD[GOOD.index("task:") : GOOD.index("approaches:")]
    message = fault(task, tasks)
    said = "with several tasks, target names the one that decides (one, two), or `mean` for all."
    assert message == f"study.yaml:1: the study: {said}"
    study = load(task, tasks + "target: two\n")
    assert study.targets == ("two",)
    message = fault(task, tasks.replace('}}"}\n  two', '}}", metric: acuracy}\n  two') + "target: two\n")
    assert message.startswith("study.yaml:3: tasks.one: metric 'acuracy' is not known.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml: expected a mapping of keys such as model, task and approaches; found nothing."),
        ("- a\n- b\n", "study.yaml: expected a mapping of keys such as model, task and approaches; found a list."),
        ("a: [\n", "study.yaml:2: not YAML: expected the node content, but found '<stream end>'."),
        ("a: 1\n\tb: 2\n", "study.yaml:2: not YAML: found character '\\t' that cannot start any token."),
        ("a: &x [*x]\n", "study.yaml: a list or mapping contains itself, by an alias. Write it out."),
        ("a: 1\n---\nb: 2\n", "study.yaml:2: not YAML: but found another document."),
    ],
)
def test_what_is_no_study_at_all_says_so(tmp_path: Path, text: str, message: str):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyError) as caught:
        load_study(tmp_path / "study.yaml")
    assert str(caught.value) == message


def test_yaml_cannot_run_code(tmp_path: Path):
    (tmp_path / "study.yaml").write_text("model: !!python/object/apply:os.system [ls]\n")
    with pytest.raises(StudyError, match="not YAML: could not determine a constructor"):
        load_study(tmp_path / "study.yaml")


def test_a_missing_file_names_its_neighbours(tmp_path: Path):
    (tmp_path / "other.yaml").write_text(GOOD)
    with pytest.raises(StudyError, match=r"study.yaml does not exist \(in that folder: other.yaml\)"):
        load_study(tmp_path / "study.yaml")
    with pytest.raises(StudyError, match=r"nowhere/study.yaml does not exist\."):
        load_study(tmp_path / "nowhere" / "study.yaml")
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Flöte\n".encode("latin-1"))
    with pytest.raises(StudyError, match="cannot be read"):
        load_study(tmp_path / "latin.yaml")


def test_settings_can_be_overridden_by_their_path(load: Load):
    study = load(
        sets=(
            "seed=7",
            "approaches.few-shot+lora.1.adapter.rank=16",
            "approaches.few-shot+lora.0.shots={choose: [1, 2]}",
            "task.data=[a.csv, b.csv]",
            "forgetting.probe=false",
            "task.limit.train=50",
        )
    )
    assert (study.seed, study.forgetting.probe) == (7, False)
    shots, sft = study.approaches["few-shot+lora"].steps
    assert isinstance(shots, FewShotStep)
    assert isinstance(shots.shots, Choose)
    assert shots.shots.choose == (1, 2)
    assert sft == SftStep(adapter={"rank": 16}, learning_rate=1e-3)
    assert study.tasks["task"].data == ("a.csv", "b.csv")
    assert study.tasks["task"].limit.train == 50


def test_a_step_given_by_its_bare_name_can_be_overridden(load: Load):
    study = load(
        "[]", "[few-shot, sft]", sets=("approaches.zero-shot.1.adapter.rank=4", "approaches.zero-shot.0=prompt")
    )
    assert study.approaches["zero-shot"].steps == (PromptStep(), SftStep(adapter={"rank": 4}))
    study = load("[]", "{steps: [sft]}", sets=("approaches.zero-shot.0.adapter.rank=4",))
    assert study.approaches["zero-shot"].steps == (SftStep(adapter={"rank": 4}),)


def test_overriding_one_approach_leaves_one_that_shares_its_yaml_alone(load: Load):
    study = load("zero-shot: []", "a: &a [{step: few-shot, shots: 2}]\n  b: *a", sets=("approaches.b.0.shots=4",))
    assert study.approaches["a"].steps == (FewShotStep(shots=2),)
    assert study.approaches["b"].steps == (FewShotStep(shots=4),)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "expected key=value, such as approaches.lora.0.adapter.rank=16."),
        ("=3", "expected key=value, such as approaches.lora.0.adapter.rank=16."),
        ("seed=[", "the value is not YAML: expected the node content, but found '<stream end>'."),
        ("seed=many", "seed: input should be a valid integer, unable to parse string as an integer; found 'many'."),
        ("approaches.lroa.0.rank=4", "approaches has no 'lroa' (it has: zero-shot, few-shot+lora)."),
        ("approaches.few-shot+lora.2.rank=4", "approaches.few-shot+lora is a list of 2 and has no '2'."),
        ("approaches.few-shot+lora.sft.rank=4", "approaches.few-shot+lora is a list of 2 and has no 'sft'."),
        ("model.name=x", "model is the value 'some/model' and has no 'name'."),
        ("forgeting.probe=false", "forgeting: unknown key; did you mean 'forgetting'?"),
        ("task.lables=auto", "task.lables: unknown key; did you mean 'labels'?"),
        (
            "approaches.few-shot+lora.1.adapter.rank=0",
            "approaches.few-shot+lora.1.adapter.rank: input should be greater than 0",
        ),
    ],
)
def test_a_wrong_override_is_named_as_it_was_given(fault: Fault, override: str, said: str):
    assert fault(sets=(override,)).startswith(f"--set {override}: {said}")


def test_an_override_inside_written_out_steps_is_named_as_it_was_given(fault: Fault):
    message = fault("[]", "{steps: [few-shot]}", sets=("approaches.zero-shot.0.shots=-1",))
    assert message.startswith("--set approaches.zero-shot.0.shots=-1: approaches.zero-shot.steps.0.shots: ")


def test_a_first_study_is_a_study_and_finds_its_data(tmp_path: Path):
    rows = "".join(f"what about card {n},card\nwhat about rate {n},rate\n" for n in range(30))
    for folder in ("data", "studies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "rows.csv").write_text("text,label\n" + rows)
    file = tmp_path / "studies" / "first.yaml"
    text, notes = initial_study(tmp_path / "data" / "rows.csv", file, "some/model")
    file.write_text(text)
    study = load_study(file)
    assert study.tasks["task"].data == "../data/rows.csv"
    assert study.tasks["task"].labels is not None
    assert list(study.approaches) == ["zero-shot", "few-shot", "nearest", "classifier", "lora"]
    assert study.tasks["task"].system == "Choose the label of the user's text. The labels are: card, rate."
    assert all(isinstance(note, str) for note in notes)


def test_a_first_study_with_documents_compares_retrieval_too(tmp_path: Path):
    folder = tmp_path / "manuals" / "deep"
    folder.mkdir(parents=True)
    (folder / "cards.md").write_text("A gold card costs three.")
    (folder / "picture.png").write_bytes(b"x")
    rows = "".join(f"what about card {n},{n} euros,deep/cards.md\n" for n in range(30))
    data, file = tmp_path / "rows.csv", tmp_path / "first.yaml"
    data.write_text("question,answer,where\n" + rows)
    text, notes = initial_study(data, file, "some/model", tmp_path / "manuals")
    file.write_text(text)
    task = load_study(file).tasks["task"]
    assert (task.documents, task.relevant) == ("manuals", "where")
    assert list(load_study(file).approaches) == ["zero-shot", "few-shot", "nearest", "lora", "rag", "rag-lora"]
    assert "'where' names the document" in notes[-1]
    data.write_text("question,answer,where\n" + rows.replace("deep/", ""))
    text, notes = initial_study(data, file, "some/model", tmp_path / "manuals")
    assert "relevant:" not in text
    assert "no column says" in notes[-1]
    (folder / "cards.md").unlink()
    with pytest.raises(DataError, match="holds no document that can be read"):
        initial_study(data, file, "some/model", tmp_path / "manuals")
