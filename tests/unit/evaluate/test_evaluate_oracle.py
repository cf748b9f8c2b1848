"""Scores against lmms-eval's code and tables against openpyxl's, both fetched for the test.

Nothing of theirs is kept here. Without a package index the tests skip.
"""

import importlib.util
import logging
import random
import sys
import types

import pytest
from answer_texts import random_answers
from evaluate_kinds import KINDS

from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.mme import read_answer
from recap.evaluate.benchmarks.pope import yes_no_figures
from recap.evaluate.benchmarks.textvqa.accuracy import soft_accuracy
from recap.evaluate.benchmarks.textvqa.normalize import normalize_answer
from recap.evaluate.spreadsheet import write_spreadsheet

pytestmark = pytest.mark.oracle
TASKS = "lmms_eval/tasks"
WORDS = [
    "red",
    "Red",
    "the red",
    "blue",
    "2",
    "two",
    "dont",
    "don't",
    "1,000",
    "a b",
    "it's",
    "No.",
]


@pytest.fixture(scope="module")
def lmms_eval(fetch_wheels):
    root = fetch_wheels("lmms-eval==0.7.3")

    def load(name):
        """Load one of its modules by path; what it imports besides stays empty."""
        path = root / TASKS / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"oracle_{name.replace('/', '_')}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    metric = load("_task_utils/vqa_eval_metric")
    files = types.SimpleNamespace(generate_submission_file=None)
    helpers = types.ModuleType("lmms_eval.tasks._task_utils")
    helpers.file_utils = files
    loguru = types.ModuleType("loguru")
    loguru.logger = logging.getLogger("oracle")
    stand_ins = {
        "loguru": loguru,
        **{name: types.ModuleType(name) for name in ("lmms_eval", "lmms_eval.tasks")},
        "lmms_eval.tasks._task_utils": helpers,
        "lmms_eval.tasks._task_utils.file_utils": files,
        "lmms_eval.tasks._task_utils.vqa_eval_metric": metric,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        yield load


def test_the_normaliser_on_100000_answers(lmms_eval):
    theirs = lmms_eval("_task_utils/vqa_eval_metric").EvalAIAnswerProcessor()
    differ = [t for t in random_answers(100_000, seed=7) if normalize_answer(t) != theirs(t)]
    assert differ == []


def test_soft_accuracy(lmms_eval):
    theirs, rng = lmms_eval("textvqa/utils"), random.Random(1)
    for number in range(3000):
        references = rng.choices(WORDS, k=10)
        given = rng.choice(WORDS)
        document = {"question_id": number, "answers": list(references)}
        expected = theirs.textvqa_process_results(document, [given])["exact_match"]
        assert soft_accuracy(given, references) == pytest.approx(expected)


def test_vqav2_on_answers_that_no_tokeniser_splits(lmms_eval):
    """Theirs does not part a possessive from its word; ours does, as the file to submit does."""
    theirs, rng = lmms_eval("vqav2/utils"), random.Random(2)
    words = [word for word in WORDS if word not in ("it's", "1,000")]
    for number in range(3000):
        references = rng.choices(words, k=10)
        given = rng.choice(words)
        answers = [{"answer": word, "answer_id": place} for place, word in enumerate(references)]
        document = {"question_id": number, "answers": answers}
        result = theirs.vqav2_process_results(document, [given])
        assert soft_accuracy(given, references) == pytest.approx(result["exact_match"])
        assert result["submission"]["answer"] == normalize_answer(given)


def test_pope_figures(lmms_eval):
    theirs, rng = lmms_eval("pope/utils"), random.Random(3)
    for size in (1, 2, 5, 50, 500):
        pairs = [(rng.choice(("yes", "no")), rng.choice(("yes", "no"))) for _ in range(size)]
        rows = [
            theirs.pope_process_results({"answer": truth, "question_id": 0}, [given])
            for given, truth in pairs
        ]
        ours = yes_no_figures(pairs)
        for name in ("accuracy", "precision", "recall", "f1_score"):
            figure = getattr(theirs, f"pope_aggregate_{name}")([r[f"pope_{name}"] for r in rows])
            assert (ours[name.removesuffix("_score")] or 0) == pytest.approx(
                100 * figure, abs=0.006
            )


def test_mme_scores(lmms_eval, tmp_path):
    theirs, rng = lmms_eval("mme/utils"), random.Random(4)
    kind = KINDS["mme"](tmp_path, 40)
    benchmark = get_benchmark("mme")
    questions = benchmark.load(kind.questions, kind.protocol).questions
    answers, results = [], {"mme_perception_score": [], "mme_cognition_score": []}
    for question in questions:
        truth = kind.look(question)
        text = rng.choice([truth, truth, "Yes", "no.", "Not at all", "I see", "YES, it is"])
        answers.append(benchmark.answer_row(question, text, "m", {}))
        document = {
            "question_id": question.question_id,
            "answer": truth,
            "category": question.question_id.split("/")[0],
        }
        for key, value in theirs.mme_process_results(document, [text]).items():
            results[key].append(value)
    facts = benchmark.score(answers, kind.annotations, kind.protocol).facts
    for key, values in results.items():
        expected = theirs.mme_aggregate_results(values)
        assert facts[key.removeprefix("mme_")] == pytest.approx(expected, abs=0.006)


def test_mme_reads_answers_alike(lmms_eval):
    """Apart from single letters, which MME's own script does not take for an answer."""
    theirs = lmms_eval("mme/utils")
    for text in random_answers(5000, seed=5):
        for whole in (f"Yes{text}", f"no {text}", text):
            plain = whole.replace(".", "").strip()
            if len(plain) > 1 and "." not in whole:
                assert read_answer(whole) == theirs.parse_pred_ans(whole)


def test_seedbench_accuracy(lmms_eval, tmp_path):
    theirs, rng = lmms_eval("seedbench/utils"), random.Random(6)
    kind = KINDS["seedbench"](tmp_path, 80)
    benchmark = get_benchmark("seedbench")
    answers, rows = [], {"seed_all": [], "seed_image": [], "seed_video": []}
    for number, question in enumerate(benchmark.load(kind.questions, kind.protocol).questions):
        text = rng.choice("ABCD")
        answers.append(benchmark.answer_row(question, text, "m", {}))
        document = {
            "answer": kind.look(question),
            "data_type": ("image", "video")[number % 2],
            "question_id": question.question_id,
        }
        for key, value in theirs.seed_process_result(document, [text]).items():
            rows[key].append(value)
    scores = benchmark.score(answers, kind.annotations, kind.protocol)
    by_type = scores.facts["by_data_type"]
    for name in ("image", "video"):
        expected = 100 * theirs.seed_aggregation_result(rows[f"seed_{name}"])
        assert by_type[name]["accuracy"] == pytest.approx(expected, abs=0.006)
    total = sum(row["accuracy"] for row in scores.rows) / len(scores.rows)
    assert total == pytest.approx(theirs.seed_aggregation_result(rows["seed_all"]))


def test_openpyxl_and_pandas_read_the_table(tmp_path, monkeypatch, fetch_wheels):
    import pandas

    monkeypatch.syspath_prepend(str(fetch_wheels("openpyxl==3.1.5", "et-xmlfile==2.0.0")))
    cells = ["plain", 'quote " & <tag>', " outer space ", "line\nbreak", "é 中 😀", "None", ""]
    path = tmp_path / "t.xlsx"
    header = ["index", *(f"c{n}" for n in range(30))]
    rows = [[3_000_007, *cells, *["x"] * 23], [5, *cells[::-1], *[None] * 23]]
    write_spreadsheet(path, header, rows)
    read = pandas.read_excel(path, engine="openpyxl", keep_default_na=False)
    assert list(read.columns) == header
    assert read.to_numpy().tolist() == [[v if v is not None else "" for v in row] for row in rows]
    assert read["index"].dtype.kind == "i"
