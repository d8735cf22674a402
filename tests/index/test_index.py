"""The index as a store: persistence, updates without a rebuild, crashes, readers beside a writer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from index.kit_index import DOCUMENTS, SETTINGS, BagOfWords
from tauten.describe.passages import Block, Chunk, Document, Found, open_index
from tauten.describe.stages.ingest import read_documents
from tauten.errors import InputError, MachineError, NotFound
from tauten.run.retrieval import generations
from tauten.run.retrieval.building import KnownVectors, build
from tauten.run.retrieval.index import Index, list_indexes, remove_index
from tauten.run.retrieval.indexes import home, locate
from tauten.run.retrieval.ranking import IndexSettings


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))


def made(embed: BagOfWords | None = None) -> Index:
    build("manuals", DOCUMENTS, embed or BagOfWords(), settings=SETTINGS)
    return Index.open("manuals")


def ask(index: Index, text: str, k: int = 3, **more: str) -> Found:
    return index.search(text, BagOfWords().one(f"{more.get('error', '')} {text}"), k, **more)  # type: ignore[arg-type]


def test_what_is_built_is_found_after_opening_again() -> None:
    index = made()
    found = ask(index, "mapping key not found")
    assert found.passages[0].chunk.title == "KeyError"
    assert found.passages[0].rank == 1
    assert found.index == "manuals"
    again = Index.open("manuals")
    assert ask(again, "mapping key not found") == found
    assert len(list(again)) == len(index) == 7


def test_search_is_the_same_on_every_run() -> None:
    index = made()
    assert len({msgspec.json.encode(ask(index, "function that returns a function")) for _ in range(5)}) == 1


def test_the_error_line_is_part_of_the_search() -> None:
    found = ask(made(), "What does this mean?", error="KeyError: 'a'")
    assert found.passages[0].chunk.title == "KeyError"
    assert found.error == "KeyError: 'a'"
    assert not found.refused


def test_nothing_near_is_refused_with_the_closest_passage() -> None:
    found = ask(made(), "boiling eggs for breakfast")
    assert found.refused
    assert not found
    assert found.reason
    assert found.passages


def test_an_empty_index_refuses() -> None:
    index = Index.create("empty", SETTINGS)
    assert ask(index, "anything").reason == "the index is empty"


def test_hints_vote_for_definitions() -> None:
    index = made()
    vector = BagOfWords().one("prompt")
    plain = index.search("prompt", vector, 1)
    hinted = index.search("prompt", vector, 7, hints=["fetch"])
    assert plain.passages[0].chunk.title == ">>>"
    scores = {passage.chunk.title: passage.score for passage in hinted.passages}
    unhinted = {p.chunk.title: p.score for p in index.search("prompt", vector, 7).passages}
    assert scores["fetch()"] == pytest.approx(unhinted["fetch()"] + index.settings.name_vote)
    assert scores["KeyError"] == pytest.approx(unhinted["KeyError"])


def test_only_what_changed_is_embedded() -> None:
    embed = BagOfWords()
    made(embed)
    assert len(embed.texts) == 7
    build("manuals", DOCUMENTS, embed)
    assert len(embed.texts) == 7
    changed = msgspec.structs.replace(DOCUMENTS[1], text=DOCUMENTS[1].text.replace("another", "a different"))
    report = build("manuals", [DOCUMENTS[0], changed], embed)
    assert (report.added, report.kept, report.removed) == (1, 6, 1)
    assert len(embed.texts) == 8
    assert "different" in ask(Index.open("manuals"), "decorator", 1).passages[0].chunk.text


def test_links_that_changed_are_written_without_embedding_anything() -> None:
    embed = BagOfWords()
    made(embed)
    linked = [msgspec.structs.replace(each, url=f"https://example.org/{each.source}") for each in DOCUMENTS]
    report = build("manuals", linked, embed)
    assert (report.added, report.kept, report.removed) == (0, 7, 0)
    assert len(embed.texts) == 7
    index = Index.open("manuals")
    assert {chunk.url.split("#")[0] for chunk in index} == {each.url for each in linked}
    assert ask(index, "mapping key not found").passages[0].chunk.url.startswith("https://example.org/")


def test_a_build_that_changes_nothing_makes_no_generation() -> None:
    before = made()._now.generation
    build("manuals", DOCUMENTS, BagOfWords())
    assert generations.current(locate("manuals")) == before


def test_pruning_removes_sources_that_are_gone() -> None:
    made()
    build("manuals", DOCUMENTS[:1], BagOfWords(), prune=False)
    assert set(Index.open("manuals").sources) == {"glossary.rst", "problems.rst"}
    build("manuals", DOCUMENTS[:1], BagOfWords())
    assert set(Index.open("manuals").sources) == {"problems.rst"}


def test_a_source_is_removed_without_a_rebuild() -> None:
    index = made()
    report = index.remove("glossary.rst")
    assert (report.removed, report.chunks) == (2, 5)
    assert all(p.chunk.source == "problems.rst" for p in ask(index, "decorator function", 7).passages)
    with pytest.raises(NotFound, match="no source"):
        index.remove("glossary.rst")


def test_chunks_are_added_beside_the_others() -> None:
    index = made()
    embed = BagOfWords()
    other = Index.create("other", SETTINGS)
    build(other, [Document("x.txt", "A paragraph on submarines and their periscopes.")], embed)
    chunks = list(other)
    report = index.add(chunks, embed([chunk.embedded for chunk in chunks]))
    assert report.chunks == 8
    assert ask(index, "periscopes of submarines").passages[0].chunk.source == "x.txt"


def test_vectors_of_another_model_are_an_error() -> None:
    index = made()
    with pytest.raises(InputError) as caught:
        index.search("x", np.zeros(384, np.float32))
    assert caught.value.code == "E221"
    with pytest.raises(InputError, match="bag"):
        index.search("x", np.zeros(32, np.float32), model="minilm-l6-v2")
    other = Index.create("other", SETTINGS)
    with pytest.raises(InputError):
        other.add(list(index), np.zeros((7, 8), np.float32))
    with pytest.raises(InputError, match="2 vectors were given for 7 chunks"):
        other.add(list(index), np.zeros((2, 32), np.float32))


def test_building_with_another_model_is_an_error() -> None:
    made()
    with pytest.raises(InputError, match="was built with bag"):
        build("manuals", DOCUMENTS, BagOfWords(), settings=msgspec.structs.replace(SETTINGS, model="other"))


def test_a_missing_index_says_how_to_make_it() -> None:
    made()
    with pytest.raises(NotFound) as caught:
        Index.open("manual")
    assert caught.value.code == "E201"
    assert "tauten index build manual" in caught.value.help
    assert "manuals" in caught.value.help
    with pytest.raises(InputError):
        Index.open("no such name")


def test_names_lie_beside_the_models_and_paths_where_they_say(tmp_path: Path) -> None:
    assert locate("manuals") == home() / "manuals"
    assert locate(str(tmp_path / "here")) == tmp_path / "here"
    index = Index.create(tmp_path / "here", SETTINGS)
    assert index.info().path == str(tmp_path / "here")
    with pytest.raises(InputError, match="exists"):
        Index.create(tmp_path / "here", SETTINGS)


def test_info_list_and_removal() -> None:
    info = made().info()
    assert (info.chunks, info.sources, info.model, info.dim) == (7, 2, "bag", 32)
    assert info.size_bytes > 1000
    assert [each.name for each in list_indexes()] == ["manuals"]
    remove_index("manuals")
    assert list_indexes() == []
    with pytest.raises(NotFound):
        remove_index("manuals")


def test_an_index_that_is_made_anew_is_another_one() -> None:
    index = made()
    before = index.revision
    remove_index("manuals")
    build("manuals", DOCUMENTS[:1], BagOfWords(), settings=SETTINGS)
    assert Index.open("manuals").revision != before  # or caches would answer from the one before
    assert index.refresh()
    assert len(index) == len(Index.open("manuals")) < 7


def test_what_else_lies_in_the_folder_of_an_index_stays(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "g7 of 2024").mkdir(parents=True)
    (docs / "g7 of 2024" / "notes.txt").write_text("What was said there, in a few words.")
    build(docs, read_documents([docs]), BagOfWords(), settings=SETTINGS)
    build(docs, [*read_documents([docs]), *DOCUMENTS], BagOfWords())
    assert len(Index.open(docs)) == 8
    remove_index(docs)
    assert [path.name for path in docs.rglob("*")] == ["g7 of 2024", "notes.txt"]
    with pytest.raises(NotFound):
        Index.open(docs)


def test_a_stage_opens_an_index_by_its_name() -> None:
    made()
    assert open_index("manuals").name == "manuals"


def test_a_backup_brings_the_index_back(tmp_path: Path) -> None:
    index = made()
    kept = index.backup(tmp_path / "manuals.tar.gz")
    index.remove("glossary.rst")
    assert len(Index.restore(kept, "manuals")) == 7
    copy = Index.restore(kept, "copy")
    assert ask(copy, "decorator").passages[0].chunk.title == "decorator"
    copy.remove("glossary.rst")
    assert len(copy) == 5


def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("not an archive")
    with pytest.raises(InputError) as caught:
        Index.restore(tmp_path / "x.tar", "fresh")
    assert caught.value.code == "E224"
    with pytest.raises(NotFound):
        Index.open("fresh")


def test_a_backup_that_is_not_whole_leaves_what_is_there(tmp_path: Path) -> None:
    index = made()
    kept = index.backup(tmp_path / "manuals.tar.gz")
    (tmp_path / "cut.tar.gz").write_bytes(kept.read_bytes()[:-2000])
    with tarfile.open(
        tmp_path / "part.tar.gz", "w:gz"
    ) as archive:  # whole as an archive, with a file left out
        for file in index._now.folder.rglob("*"):
            if file.name != "vectors.f32":
                archive.add(file, f"index/{file.relative_to(index._now.folder)}", recursive=False)
    for name in ("cut.tar.gz", "part.tar.gz", "gone.tar.gz"):
        with pytest.raises(InputError) as caught:
            Index.restore(tmp_path / name, "manuals")
        assert caught.value.code == "E224"
        assert len(Index.open("manuals")) == 7


@pytest.mark.parametrize(
    "victim", ["info.json", "vectors.f32", "chunks.bin", "catalogue.msgpack", "words/meta.json"]
)
def test_a_damaged_index_says_so_and_can_be_removed(victim: str, tmp_path: Path) -> None:
    index = made()
    file = index._now.folder / victim
    file.unlink()
    with pytest.raises(MachineError) as caught:
        Index.open("manuals")
    assert caught.value.code == "E321"
    assert "tauten index rm manuals," in caught.value.help
    assert "is damaged" in list_indexes()[0].problem
    moved = index.root.rename(tmp_path / "elsewhere")
    with pytest.raises(MachineError) as caught:
        Index.open(moved)
    assert f"tauten index rm {moved}," in caught.value.help
    remove_index(moved)


@pytest.mark.parametrize("victim", ["vectors.f32", "chunks.bin", "chunks.table", "catalogue.msgpack"])
def test_a_cut_off_file_is_noticed_when_the_index_is_opened(victim: str) -> None:
    file = made()._now.folder / victim
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(MachineError) as caught:
        Index.open("manuals")
    assert caught.value.code == "E321"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("No space left on device")]
)
def test_a_failed_write_leaves_the_old_version(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    index = made()
    before = generations.current(index.root)

    def full(*_: object) -> None:
        raise error  # a ValueError is how tantivy says it

    monkeypatch.setattr("tauten.run.retrieval.index.write_words", full)
    with pytest.raises(MachineError, match="cannot write index 'manuals': No space") as caught:
        index.remove("glossary.rst")
    assert caught.value.code == "E302"
    monkeypatch.undo()
    assert generations.current(index.root) == before
    assert len(Index(index.root)) == 7
    assert [folder.name for folder in index.root.glob("g*") if folder.name > before] == []


def test_a_quota_leaves_the_old_version() -> None:
    index = made()
    more = [*DOCUMENTS, Document("long.txt", "\n\n".join(f"A note on subject {n}." * 3 for n in range(500)))]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(MachineError, match="cannot write index 'manuals'") as caught:
            build("manuals", more, BagOfWords())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "E302"
    assert len(Index(index.root)) == 7


def test_an_interrupt_right_after_the_commit_leaves_the_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    index = made()
    sync = generations._sync

    def interrupted(path: Path) -> None:
        sync(path)
        if path == index.root:  # the last thing that is written down
            raise KeyboardInterrupt

    monkeypatch.setattr(generations, "_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.remove("glossary.rst")
    assert len(Index.open("manuals")) == 5


def test_what_is_no_index_stands_beside_indexes(tmp_path: Path) -> None:
    index = made()
    (home() / ".DS_Store").write_text("of a file manager")
    kept = index.backup(home() / "manuals.tar.gz")
    assert [each.name for each in list_indexes()] == ["manuals"]
    for absent in ("manual", kept):
        with pytest.raises(NotFound):
            Index.open(absent)
    with pytest.raises(MachineError) as caught:
        Index.create(kept, SETTINGS)
    assert caught.value.code == "E302"


def test_a_chunk_that_is_given_twice_is_held_once() -> None:
    index = made()
    chunk = Chunk("twice.txt", ("Twice",), (Block("Said once and said again."),))
    twice = [chunk, chunk]
    assert len(index.missing(twice)) == 1
    vectors = BagOfWords()([each.embedded for each in twice])
    assert index.add(twice, vectors).added == 1
    assert index.sources["twice.txt"] == 1


def test_vectors_stay_with_their_chunks_whoever_commits_while_they_are_made() -> None:
    made()
    new = [Document(f"{n}.txt", f"A note on subject {n}, which nobody else has.") for n in range(2)]

    class Beside(BagOfWords):
        """Embeds, while another process puts one of the documents in."""

        def __call__(self, texts: list[str]) -> NDArray[np.float32]:
            build("manuals", new[:1], BagOfWords(), prune=False)
            return super().__call__(texts)

    report = build("manuals", [*DOCUMENTS, *new], Beside(), prune=False)
    assert (report.added, report.chunks) == (1, 9)
    index = Index.open("manuals")
    for chunk in index:
        assert index.vector(chunk.id) == pytest.approx(BagOfWords().one(chunk.embedded), abs=1e-5)

    class Against(BagOfWords):
        """Embeds, while another process puts the document in and takes another one out."""

        def __call__(self, texts: list[str]) -> NDArray[np.float32]:
            other = Index.open("manuals")
            build(other, third, BagOfWords(), prune=False)
            other.remove("0.txt")
            return super().__call__(texts)

    third = [Document("third.txt", "One more note that nobody has heard of before.")]
    with pytest.raises(MachineError) as caught:
        build("manuals", [*new, *third], Against(), prune=False)
    assert caught.value.code == "E322"
    assert build("manuals", [*new, *third], BagOfWords(), prune=False).added == 1


def test_an_embedding_of_another_size_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="makes vectors of 32 numbers, the index holds such of 31") as caught:
        build(tmp_path / "odd", DOCUMENTS, BagOfWords(), settings=IndexSettings(model="bag", dim=31))
    assert caught.value.code == "E221"


def test_a_writer_killed_in_the_middle_leaves_the_old_version(tmp_path: Path) -> None:
    index = made()
    script = textwrap.dedent("""
        import sys, time
        import tauten.run.retrieval.index as module
        def stop(*_):
            print("half written", flush=True)
            time.sleep(60)
        module.write_words = stop
        module.Index(module.Path(sys.argv[1])).remove("glossary.rst")
    """)
    command = [sys.executable, "-c", script, str(index.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half written\n"
        with pytest.raises(MachineError) as caught:
            index.remove("problems.rst")  # the lock is held
        assert caught.value.code == "E322"
        os.kill(writer.pid, signal.SIGKILL)
    reopened = Index(index.root)
    assert len(reopened) == 7
    assert len(list(index.root.glob("g[0-9]*"))) > 1  # what the dead writer left
    assert reopened.remove("glossary.rst").chunks == 5  # the lock is free, the remains are swept
    assert ask(reopened, "mapping key not found").passages[0].chunk.title == "KeyError"


def test_readers_keep_what_they_opened_until_they_refresh() -> None:
    index = made()
    reader = Index.open("manuals")
    for number in range(4):  # further than the generations that are kept
        build(
            "manuals",
            [*DOCUMENTS, Document(f"{number}.txt", f"Note {number} on many things here.")],
            BagOfWords(),
        )
    assert index._now.generation != generations.current(index.root)
    assert len(reader) == 7
    assert ask(reader, "decorator").passages[0].chunk.title == "decorator"
    assert reader.refresh()
    assert len(reader) == 8
    assert not reader.refresh()


def test_threads_search_while_a_writer_commits() -> None:
    index = made()
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                assert ask(index, "mapping key not found").passages[0].chunk.title == "KeyError"
                opened = Index.open("manuals")
                assert len(opened) in (7, 8)
        except BaseException as error:  # noqa: BLE001  # handed to the test below
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    writer = Index.open("manuals")
    for number in range(5):
        extra = [Document("extra.txt", f"Extra words, version {number}, of no importance.")]
        build(writer, [*DOCUMENTS, *extra], BagOfWords())
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_vectors_travel_with_the_documents(tmp_path: Path) -> None:
    index = made()
    KnownVectors.write(tmp_path / "vectors", index)
    known = KnownVectors(tmp_path / "vectors", "bag")
    assert len(known) == 7
    embed = BagOfWords()
    report = build("copy", DOCUMENTS, embed, settings=SETTINGS, known=known)
    assert (report.added, embed.texts) == (7, [])
    for chunk in index:
        row = known.get(chunk.id)
        assert row is not None
        assert float(row @ index.vector(chunk.id)) == pytest.approx(1, abs=0.01)
    other = KnownVectors(tmp_path / "vectors", "another-model")
    build("third", DOCUMENTS, embed, settings=SETTINGS, known=other)
    assert len(embed.texts) == 7


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    build(
        "manuals", DOCUMENTS, BagOfWords(), lambda done, total: seen.append((done, total)), settings=SETTINGS
    )
    assert seen[-1] == (7, 7)
