"""The papers' tables as rows to run."""

from dataclasses import replace

import pytest

from thbench import api
from thbench import config as configs
from thbench.cli import reproduce
from thbench.cli.parser import main
from thbench.config.tables import TableRow, command, read_table
from thbench.core.errors import UserError
from thbench.evaluation import protocol
from thbench.evaluation.results import read, write
from thbench.generation import assemble
from thbench.leaderboard.rank import Column

TABLES = configs.names("tables")


@pytest.mark.parametrize("name", TABLES)
def test_every_row_that_a_paper_prints_is_run_or_says_why_not(name):
    spec = read_table(name)
    printed = reproduce.published_table(spec)
    if spec.why:
        assert not spec.rows
        return
    assert sorted(row.name for row in spec.rows) == sorted(row.title for row in printed.rows)
    assert set(spec.columns) <= {column.name for column in printed.columns}
    protocol.load(spec.protocol)


def test_every_published_table_has_its_file():
    assert sorted(read_table(name).published for name in TABLES) == sorted(
        table.slug for table in reproduce.published_tables()
    )


ROWS = [
    pytest.param(row, id=f"{name} {row.name}")
    for name in TABLES
    for row in read_table(name).runnable
]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_settings_that_its_strategy_takes(row):
    config = configs.load(row.strategy, row.words)
    assemble.check(config)
    if config.eval.protocol:
        protocol.load(config.eval.protocol)


def test_no_two_rows_of_a_table_are_the_same_but_by_name():
    for name in TABLES:
        made = [(r.strategy, r.words, r.yardstick) for r in read_table(name).runnable]
        assert len(set(made)) == len(made), name


def test_a_resolution_is_scored_at_its_own():
    """DAWN's Table 7."""
    sizes = {
        row.name: protocol.load(configs.load(row.strategy, row.words).eval.protocol or "dawn").size
        for row in read_table("dawn-table7").runnable
    }
    assert sizes == {"GT": 128, "DAWN (128)": 128, "DAWN (256)": 256}


def test_words_with_blanks_in_brackets_are_one_word(tmp_path):
    rows = {row.name: row for row in read_table("hallo-table6").rows}
    assert rows["audio 6, image 3.5"].words == ("options.guidance={image: 3.5, audio: 6}",)
    assert command(rows["audio 6, image 3.5"])[0] == (
        "thbench fit hallo 'options.guidance={image: 3.5, audio: 6}'"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: d\nprotocol: dawn\nrows: {A: dawn}\n", "lacks 'published'"),
        ("published: dawn-table-2\nprotocol: dawn\nrows: {A: dawn}\n", "lacks 'data'"),
        ("published: p\ndat: x\n", "has no key 'dat'. Did you mean 'data'"),
        ("published: p\ndata: d\nprotocol: q\nrows: {A: dawn x}\n", "'x' is not of the form"),
        ("published: p\ndata: d\nprotocol: q\nrows: {A: {of: dawn}}\n", "write {yardstick"),
        ("published: p\ndata: d\nprotocol: q\nrows: {A: {fo: dawn}}\n", "no key 'fo'"),
    ],
)
def test_wrong_files_are_explained(text, message, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(str(path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dawn-tabel2"], "No table 'dawn-tabel2'. Did you mean 'dawn-table2'"),
        (["dawn-table6"], "cannot be run here: a user study"),
        ([], "Name a table"),
        (["dawn-table2", "--rows", "SAD"], "has no row 'SAD'. Did you mean 'SAR'"),
        (["dawn-table1-hdtf", "--rows", "EchoMimic"], "None of these rows can be run"),
        (["hallo-table3"], "No data set 'wild'"),
    ],
)
def test_wrong_words_are_explained(words, message, capsys):
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_list_has_every_table_and_counts_its_rows(capsys):
    assert main(["reproduce", "--list"]) == 0
    out = capsys.readouterr().out
    assert "thbench eval dawn without_pbnet=true data=hdtf eval.protocol=dawn" in out
    rows = [row for name in TABLES for row in read_table(name).rows]
    runnable = sum(not row.why for row in rows)
    assert f"{len(TABLES)} tables: {runnable} rows can be run, {len(rows) - runnable} are of" in out
    assert "published only" not in out


def test_our_columns_stand_for_the_paper_s():
    spec = read_table("hallo-table1")
    names = ["PSNR", "FD-pyramid", "FVD16-synthetic", "LSE-C (synthetic-sync)", "E-FID (x)", "FVD8"]
    found = reproduce.counterparts(
        spec, reproduce.published_table(spec), [Column(name, None) for name in names]
    )
    assert found == ["FD-pyramid", "FVD16-synthetic", "LSE-C (synthetic-sync)"]


@pytest.fixture
def table(bench, tmp_path):
    """Two rows of one training, the small bench's, and one of a method without code."""
    path = tmp_path / "mine.yaml"
    plan = "plan={name: sar, segment: 10, overlap: 4}"
    path.write_text(
        "published: dawn-table-2\ndata: cremad\nprotocol: dawn\n"
        f"rows:\n  SAR: '{bench.strategy} {plan}'\n  Ours: {bench.strategy}\nmethods: [TTR]\n"
    )
    return path


@pytest.fixture
def words(bench, table, tmp_path):
    quick = ["eval.limit=1", "eval.frames=9", f"results={tmp_path / 'results'}"]
    return ["reproduce", str(table), *bench.words, *quick]


def written(tmp_path):
    return {p.name: p.stat().st_mtime_ns for p in (tmp_path / "results").glob("*.json")}


def test_a_table_is_made_resumed_and_printed_beside_the_paper_s(
    words, tmp_path, monkeypatch, capsys
):
    real, made = api.evaluate_config, []

    def stopped(config, *given):
        if made:
            raise KeyboardInterrupt
        made.append(config.plan["name"])
        return real(config, *given)

    monkeypatch.setattr(api, "evaluate_config", stopped)
    assert main(words) == 130
    first = written(tmp_path)
    assert made == ["sar"]
    assert len(first) == 1
    monkeypatch.setattr(api, "evaluate_config", lambda c, *g: made.append(c) or real(c, *g))
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert len(made) == 2
    assert first.items() <= written(tmp_path).items()
    assert "[1/2] SAR: there, " in out
    printed, own = out[out.index("DAWN, Table 2") :].split("Ours for DAWN, Table 2")
    assert "origin: reported" in printed
    assert "11.42" in printed
    assert "origin: smoke" in own
    assert "scale: tiny" in own
    assert "protocol: synthetic (" in own
    assert "FD-pyramid" in own
    assert "11.42" not in own
    assert "no code of them here: TTR" in out
    assert main(words) == 0
    assert len(made) == 2


def test_a_result_of_other_weights_or_settings_is_no_row(words, tmp_path, capsys):
    assert main([*words, "--rows", "Ours"]) == 0
    capsys.readouterr()
    (path,) = (tmp_path / "results").glob("*.json")

    def preview(*more):
        assert main([*words, "--rows", "Ours", "--dry-run", *more]) == 0
        return capsys.readouterr().out

    assert preview().startswith("Ours: there, ")
    assert preview("eval.frames=8").startswith("Ours: missing")
    assert preview("sampler.steps=1").startswith("Ours: missing")
    made = read(path)
    lfg = replace(made.weights["lfg"], steps=made.weights["lfg"].steps + 1)
    write(replace(made, weights={**made.weights, "lfg": lfg}), path.parent)
    assert preview().startswith("Ours: missing")


def test_a_dry_run_says_what_is_missing_and_what_it_costs(words, tmp_path, capsys):
    assert main([*words, f"runs={tmp_path / 'none'}", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    sar, own = out.split("Ours: missing")
    assert "$ thbench fit " in sar
    assert "  train lfg: 0 of 2 steps, about " in sar
    assert "  train lfg: as for SAR" in own
    assert "generate 1 videos of at most 9 frames by protocol synthetic: each 18 frames" in own
    assert "TTR: a method without code here" in own


def test_a_yardstick_s_row_is_found_again(bench, words, table, tmp_path, capsys):
    table.write_text(
        "published: dawn-table-7\ndata: hdtf\nprotocol: dawn\n"
        f"rows: {{GT: {{yardstick: ground-truth, of: {bench.strategy}}}}}\n"
    )
    assert main(words) == 0
    assert "GT (Ground truth)" in capsys.readouterr().out
    before = written(tmp_path)
    assert main(words) == 0
    assert "GT: there, ground-truth-" in capsys.readouterr().out
    assert written(tmp_path) == before


def test_commands_are_those_that_a_user_types():
    row = TableRow("GT", "dawn", ("data=x",), "ground-truth")
    assert command(row) == ["thbench eval dawn data=x --yardstick ground-truth"]
