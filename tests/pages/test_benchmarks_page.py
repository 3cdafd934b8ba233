"""What the benchmarks print is kept in docs/performance.md."""

from benchmarks.__main__ import BENCHMARKS, HEAD, ROOT, run, with_part

PROSE = "# Performance\n\n## The step\n\nWords.\n"


def test_a_benchmark_gets_a_part_at_the_end_of_the_page():
    page = with_part(PROSE, "step", "```\n1 image/s\n```")
    assert page == f"{PROSE}\n{HEAD}\n### step\n\n```\n1 image/s\n```\n"


def test_a_second_run_changes_its_own_part_alone():
    page = with_part(with_part(PROSE, "step", "```\nold\n```"), "scale", "```\nother\n### not a title\n```")
    page = with_part(page, "step", "```\nnew\n```")
    assert page.startswith(PROSE)
    assert "old" not in page
    assert page.index("new") < page.index("other")
    assert with_part(page, "step", "```\nnew\n```") == page


def test_every_benchmark_is_a_module_that_explains_itself():
    for command in BENCHMARKS.values():
        assert (ROOT / command.split()[0].replace(".", "/")).with_suffix(".py").is_file()


def test_what_a_benchmark_prints_is_heard_line_by_line_and_returned():
    heard: list[str] = []
    status, printed = run("benchmarks --help", heard.append)
    assert status == 0
    assert heard == printed.splitlines()
    assert all(name in printed for name in BENCHMARKS)
