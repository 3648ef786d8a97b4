import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.leaderboard.pages import CLIPS, HOSTILE, made, results_of, video
from tests.leaderboard.rows import result
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.evaluation import encodings
from thbench.evaluation.results import PlanRef, read, read_folder, write
from thbench.leaderboard import published
from thbench.leaderboard.page import Gallery, write_page
from thbench.leaderboard.page.videos import Shelf, encode, length
from thbench.leaderboard.rank import tables_of

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "leaderboards" / "published" / "dawn.yaml"


def data(index: Path):
    text = (index.parent / "data.js").read_text("utf-8")
    assert text.startswith("window.THBENCH = ")
    return json.loads(text.removeprefix("window.THBENCH = ").rstrip(";\n"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return results_of(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "page"
    return write_page(out, results, published.read(PAPER))


def test_rows_columns_and_marks_are_those_of_the_table(results, page):
    (table,) = tables_of(results)
    shown = data(page)["tables"][0]
    rows = [row for row in table.rows if row.origin == "measured"]
    assert [c["name"] for c in shown["columns"]] == [c.name for c in table.columns]
    assert [r["title"] for r in shown["rows"]] == [r.title for r in rows]
    for ours, row in zip(shown["rows"], rows, strict=True):
        cells = [row.cells.get(c.name) for c in table.columns]
        assert [c["mark"] for c in ours["cells"]] == [c.mark if c else "" for c in cells]
        assert [c["number"] for c in ours["cells"]] == [c.value if c else None for c in cells]
    psnr = shown["rows"][0]["cells"][1]
    assert (psnr["value"], psnr["interval"], psnr["key"]) == ("31", "[30, 32]", -31.0)


def test_origins_share_no_table(page):
    tables = data(page)["tables"]
    assert {t["origin"] for t in tables} == {"measured", "smoke", "reported"}
    for table in tables:
        assert {row["origin"] for row in table["rows"]} == {table["origin"]}
    assert len({t["id"] for t in tables}) == len(tables)
    assert [row["title"] for t in tables if t["origin"] == "smoke" for row in t["rows"]] == ["Tiny"]


def test_nothing_of_a_hostile_name_can_end_the_script(page):
    text = (page.parent / "data.js").read_text("utf-8")
    assert not set("<>&\u2028\u2029") & set(text)
    assert HOSTILE in [row["title"] for row in data(page)["tables"][0]["rows"]]
    assert not any("img" in p.name or "evil" in p.name for p in page.parent.rglob("*"))


def test_videos_are_copied_under_numbers_the_original_first(results, page):
    gallery = data(page)["tables"][0]["gallery"]
    assert [clip["id"] for clip in gallery["clips"]] == list(CLIPS)
    clip = gallery["clips"][0]
    assert clip["original"] == ["videos/0001.mp4", 50]
    assert [(row, seed, frames) for row, seed, _, frames in clip["videos"]] == [
        (0, 0, 50),
        (1, 0, 50),
        (2, 0, 30),
    ]
    copied = page.parent / clip["videos"][0][2]
    source = Path(next(r.videos for r in results if r.run == "sar")) / "seed-0" / "a.mp4"
    assert copied.read_bytes() == source.read_bytes()
    assert gallery["missing"] == []
    assert dict(clip["values"])[0][0]["metrics"]["PSNR"] == [31.0, "31"]


def test_the_same_results_give_the_same_bytes(results, page, tmp_path):
    again = write_page(tmp_path / "again", results[::-1], published.read(PAPER))
    for path in page.parent.rglob("*"):
        if path.is_file():
            other = again.parent / path.relative_to(page.parent)
            assert other.read_bytes() == path.read_bytes(), path.name
    assert len(list(again.parent.rglob("*"))) == len(list(page.parent.rglob("*")))


def test_clips_are_limited_and_an_earlier_page_s_videos_are_gone(results, tmp_path):
    many = write_page(tmp_path / "page", results)
    assert len(list((many.parent / "videos").iterdir())) == 8
    few = write_page(tmp_path / "page", results, clips=1)
    assert len(list((few.parent / "videos").iterdir())) == 4
    gallery = data(few)["tables"][0]["gallery"]
    assert (len(gallery["clips"]), gallery["of"]) == (1, 2)
    with pytest.raises(UserError, match="clips must be 0 or more"):
        write_page(tmp_path / "page", results, clips=-1)


def test_what_is_missing_is_said(results, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(Path(results[0].videos).parent, folder)
    (folder / "sar" / "seed-0" / "a.mp4").unlink()
    (folder / "dawn" / "seed-0" / "a.mp4").write_bytes(b"no video")
    (folder / "truth" / f"{CLIPS[1]}.mp4").unlink()
    moved = [made(name, folder) for name in ("dawn", "sar")]
    moved += [replace(made("evil", tmp_path / "gone"), reference="")]
    gallery = data(write_page(tmp_path / "page", moved))["tables"][0]["gallery"]
    lines = " ".join(gallery["missing"])
    assert f"{HOSTILE}: no videos, they lay in evil, which is not here." in gallery["missing"]
    assert "SAR: no video of a." in gallery["missing"]
    assert "DAWN, seed 0 of a cannot be shown: its file is no video" in lines
    assert str(tmp_path) not in lines
    old = data(write_page(tmp_path / "old", [result("a")]))["tables"][0]["gallery"]
    assert old["clips"] == []
    assert "does not say where they lay" in old["missing"][0]


def test_without_the_reference_the_ids_of_the_scored_clips_pair_videos(results, tmp_path):
    lone = [replace(r, reference="") for r in results if r.run == "dawn"]
    gallery = data(write_page(tmp_path / "page", lone))["tables"][0]["gallery"]
    assert [clip["original"] for clip in gallery["clips"]] == [None, None]
    assert all(clip["videos"] for clip in gallery["clips"])
    assert "The original of a is not here." in gallery["missing"]


def test_what_browsers_do_not_play_is_encoded_anew(tmp_path):
    source = tmp_path / "odd.avi"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = 33, 35, "yuv420p"
        for i in range(20):
            frame = av.VideoFrame(33, 35, "rgb24").reformat(format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shelf = Shelf(tmp_path / "page")
    name, frames = shelf.put(source)
    found = encodings.read(tmp_path / "page" / name)
    assert (name, frames, found.codec) == ("videos/0001.mp4", 20, "h264")
    assert (found.width, found.height, found.pixels) == (32, 34, "yuv420p")
    assert shelf.encoded == [source]
    plain = video(tmp_path / "plain.mp4", frames=5)
    assert shelf.put(plain) == ["videos/0002.mp4", 5]
    assert shelf.put(plain) == ["videos/0002.mp4", 5], "copied once"
    assert shelf.encoded == [source]
    # An mp4 in another container is not what its suffix says a browser would find.
    renamed = tmp_path / "plain.mkv"
    shutil.copyfile(plain, renamed)
    assert shelf.put(renamed)[0] == "videos/0003.mp4"
    assert shelf.encoded == [source, renamed]


def test_sound_is_kept_when_a_video_is_encoded_anew(tmp_path):
    encode(video(tmp_path / "a.mp4", frames=10), tmp_path / "b.mp4")
    assert encodings.read(tmp_path / "b.mp4").audio == "aac"
    encode(video(tmp_path / "c.mp4", frames=10, sound=False), tmp_path / "d.mp4")
    assert encodings.read(tmp_path / "d.mp4").audio == ""
    assert length(tmp_path / "d.mp4") == 10


def test_a_folder_with_other_files_is_refused(results, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="other files than a page"):
        write_page(tmp_path / "mine", results)
    with pytest.raises(UserError, match="is a file"):
        write_page(tmp_path / "mine" / "thesis.tex", results)
    with pytest.raises(UserError, match="nothing to show"):
        write_page(tmp_path / "none", [])


def test_plans_are_those_of_the_rows(page):
    plans = {row["title"]: row["plan"] for row in data(page)["tables"][0]["rows"]}
    assert plans["SAR"]["plan"] == "sar (segment 16, overlap 4)"
    assert plans["SAR"]["frames"] == 50
    assert [0, 0, 16, 5] in plans["SAR"]["cells"], "the first call: noise in the first segment"
    assert [4, 12, 4, 0] in plans["SAR"]["cells"], "the second segment observes the first's end"
    assert plans["DAWN"]["calls"] == 4
    assert plans[HOSTILE] is None, "a plan that is not known here"


def test_an_older_result_has_the_plan_of_its_strategy_s_file():
    from thbench.leaderboard.page import plans

    shipped = read(next((ROOT / "leaderboards" / "results").glob("sar-small-synthetic-64-c*.json")))
    shown = plans.picture(replace(shipped, plan=None))
    assert shown["plan"] == "sar (segment 16, overlap 4)"
    assert "scale=small; the result itself does not say" in shown["from"]
    still = replace(shipped, plan=None, strategy="still", weights={})
    assert plans.picture(still) is None
    zero_shot = replace(shipped, plan=None, notes=("zero-shot: plan other",))
    assert plans.picture(zero_shot) is None


def test_provenance_says_what_a_row_is_made_of(page):
    about = dict(data(page)["tables"][0]["rows"][1]["about"])
    rows = {name: dict(lines) for name, lines in about.items()}
    assert rows["Row"]["Run"] == "dawn"
    assert rows["Protocol and data"]["Protocol's hash"] == "abc"
    assert rows["Weights"]["net"] == "0123abcd, 700 steps, shipped with thbench, stored as float16"
    assert rows["Coverage"][f"Left out: bad {HOSTILE}"] == "no frames"
    assert rows["Time and cost"]["Hardware"] == "CPU"
    reported = next(t for t in data(page)["tables"] if t["origin"] == "reported")
    assert "the paper's, digit by digit" in str(reported["rows"][0]["about"])


def test_costs_at_several_lengths_are_joined_by_weights(results, tmp_path):
    (one,) = [r for r in results if r.run == "sar"]
    cost = replace(one.cost, frames=100.0, seconds=9.0, depth=40.0)
    longer = replace(one, run="longer", cost=cost, protocol=replace(one.protocol, name="long"))
    other = replace(longer, run="other", title="Other")
    (line,) = data(write_page(tmp_path / "page", [one, longer, other], clips=0))["lengths"]
    assert line["title"] == "SAR"
    assert line["points"] == [[50, 2.0, 10.0, "CPU"], [100, 9.0, 40.0, "CPU"]]


def test_a_gallery_without_results_stands_first(tmp_path):
    videos = {HOSTILE: video(tmp_path / "x.mp4", frames=5), "B": video(tmp_path / "y.mp4")}
    shown = Gallery("shipped", "One sound", "Drawn.", videos, {"B": {"name": "nar"}})
    (table,) = data(write_page(tmp_path / "page", [], galleries=[shown]))["tables"]
    assert (table["origin"], [r["title"] for r in table["rows"]]) == ("not scored", [HOSTILE, "B"])
    assert table["rows"][1]["plan"]["plan"] == "nar"
    assert [v[2] for v in table["gallery"]["clips"][0]["videos"]] == [
        "videos/0001.mp4",
        "videos/0002.mp4",
    ]


def test_a_result_says_where_its_videos_lie_from_its_own_folder(tmp_path):
    one = replace(
        result("a"),
        videos=str(tmp_path / "runs" / "v"),
        reference=str(tmp_path / "data"),
        plan=PlanRef("sar", {"segment": 3}),
    )
    path = write(one, tmp_path / "deep" / "results")
    text = json.loads(path.read_text())
    assert (text["videos"], text["reference"]) == ("../../runs/v", "../../data")
    (tmp_path / "runs" / "v").mkdir(parents=True)
    (tmp_path / "moved").mkdir()
    shutil.copytree(tmp_path / "deep", tmp_path / "moved" / "deep")
    back = read(path)
    assert Path(back.videos).samefile(tmp_path / "runs" / "v")
    assert back.plan == one.plan
    assert str(tmp_path / "moved") in read(tmp_path / "moved" / "deep/results/a.json").videos
    del text["videos"], text["reference"], text["plan"], text["sha256"]
    path.write_text(json.dumps(text))
    assert read(path).videos == "", "older results do not say"


def test_the_command_writes_the_page(results, tmp_path, capsys):
    folder = tmp_path / "board" / "results"
    for one in results:
        write(one, folder)
    words = ["leaderboard", "--results", str(folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--html", "--clips", "1"]) == 0
    index = tmp_path / "out" / "page" / "index.html"
    assert f"page: {index}" in capsys.readouterr().out
    assert len(list((index.parent / "videos").iterdir())) == 4
    assert main([*words, "--html", str(folder)]) == 2
    assert "other files than a page" in capsys.readouterr().err


def test_score_ends_with_the_page_of_its_result(results, tmp_path, capsys, monkeypatch):
    (one,) = [r for r in results if r.run == "sar"]
    monkeypatch.setattr("thbench.api.score", lambda *_, **__: one)
    words = ["score", one.videos, "--reference", one.reference, "--protocol", "dawn"]
    words += ["--results", str(tmp_path / "r"), "--name", "theirs"]
    assert main([*words, "--no-page"]) == 0
    assert not (tmp_path / "r" / "page").exists()
    assert main(words) == 0
    index = tmp_path / "r" / "page" / "theirs-dawn" / "index.html"
    assert f"page: {index}" in capsys.readouterr().out.splitlines()[-1]
    (table,) = data(index)["tables"]
    assert [row["run"] for row in table["rows"]] == ["sar"]
    assert all(clip["original"] and clip["videos"] for clip in table["gallery"]["clips"])
    (index.parent / "data.js").unlink()
    assert main(words) == 2
    assert "other files than a page" in capsys.readouterr().err


def test_the_demo_s_page_shows_the_shipped_weights_first(results, tmp_path, monkeypatch):
    from thbench.cli import demo

    monkeypatch.setattr("thbench.evaluation.results.SHIPPED_RESULTS", tmp_path / "none")
    for one in results:
        write(one, tmp_path / "r")
    shown = Gallery("shipped", "One sound", "Drawn.", {"B": video(tmp_path / "y.mp4")})
    index = demo._write_page(tmp_path / "page", tmp_path / "r", shown)
    origins = [table["origin"] for table in data(index)["tables"]]
    assert origins == ["not scored", "measured", "smoke"]


def test_the_checked_in_results_make_a_page_without_videos(tmp_path):
    # Elsewhere, as a clone has them: on the machine that made them, the videos may still be there.
    shutil.copytree(ROOT / "leaderboards" / "results", tmp_path / "results")
    found = read_folder(tmp_path / "results")[:3]
    table = data(write_page(tmp_path / "page", found))["tables"][0]
    assert table["gallery"]["clips"] == []
    assert table["gallery"]["missing"]
    assert not (tmp_path / "page" / "videos").exists()


def test_the_assets_name_nothing_outside_the_folder():
    assets = ROOT / "thbench" / "leaderboard" / "page" / "assets"
    for path in assets.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path.name
        assert "https:" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert "fetch(" not in text, path.name
