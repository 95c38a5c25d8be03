"""The documentation's pages name what exists, their commands and code can be parsed, and the site's hooks work."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated

import pytest
import typer
from typer.main import get_command

import captioner
from captioner.cli import app
from tests.browser import launched
from tests.commands import commands, parse

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
MENTION = re.compile(r"`([\w/.-]+\.(?:py|sh|yaml))(?:::([\w.]+))?`")


def hook(repository: Path, name: str) -> ModuleType:
    """Import one of the site's hooks, for which the extra [docs] must be installed."""
    for library in ("mkdocs", "math_core", "nbclient", "griffe"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install -e '.[docs]'")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", repository / "scripts" / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_pages_exist() -> None:
    assert len(PAGES) > 12 and len(NOTEBOOKS) > 0


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_parsed(page: str) -> None:
    for words in commands((DOCS / page).read_text(encoding="utf-8")):
        parse(words)


@pytest.mark.parametrize("page", PAGES)
def test_python_can_be_parsed(page: str) -> None:
    for code in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(code)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_name_exists(page: str, repository: Path) -> None:
    for name, inside in MENTION.findall((DOCS / page).read_text(encoding="utf-8")):
        path = next((root / name for root in (repository / "captioner", repository) if (root / name).exists()), None)
        if not inside and path is None and not name.startswith(("captioner/", "scripts/")):
            continue  # a file of the reader's
        assert path is not None, f"{page} names {name}, which does not exist"
        if inside:
            thing = importlib.import_module(".".join(path.relative_to(repository).with_suffix("").parts))
            for part in inside.split("."):
                assert hasattr(thing, part), f"{page} names {inside}, which {name} does not have"
                thing = getattr(thing, part)


def test_the_api_pages_have_every_public_name() -> None:
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES if page.startswith("api/"))
    documented = {*re.findall(r"captioner\.(?:\w+\.)*(\w+)", pages), *vars(captioner.errors)}
    assert {name for name in captioner.__all__ if not name.startswith("_")} <= documented


def test_the_lineage_names_the_code_of_every_model() -> None:
    models = re.split(r"^## ", (DOCS / "lineage.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    with_equations = [text for text in models if "$$" in text]
    assert len(with_equations) >= 8
    assert all(MENTION.search(text) for text in with_equations)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_results(path: Path) -> None:
    """They are run when the site is built."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_a_name_in_a_file_is_linked_to_its_line(repository: Path) -> None:
    from captioner.decoders.show_tell import ShowTell

    sources = hook(repository, "sources")
    path = sources.sources()["decoders/show_tell.py"]
    assert sources.line_of(path, "ShowTell.start") == inspect.getsourcelines(ShowTell.start)[1]
    assert sources.line_of(path, "ShowTell.attends") is not None
    assert sources.line_of(path, "ShowTell.stop") is None


def test_equations_become_mathml(repository: Path) -> None:
    maths = hook(repository, "maths")
    page = r'<p>With <span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[\frac{1}{2}\]</div>'
    html = maths.on_page_content(page)
    assert "arithmatex" not in html and html.count("<math") == 2 and "<mfrac>" in html and "&lt;" in html
    with pytest.raises(Exception, match=r"frak.*cannot be converted"):
        maths.mathml(r"\frakk{x}", display=False)


def test_a_table_of_settings_is_that_of_the_class(repository: Path) -> None:
    from captioner.search.config import SearchConfig

    rows = hook(repository, "settings").table(SearchConfig).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(SearchConfig.model_fields)
    assert rows[0] == "| `width` | int ≥ 1, ≤ 1000 | `5` | hypotheses kept for each image; 1 is greedy search |"


def test_a_notebooks_results_are_on_its_page(repository: Path) -> None:
    notebooks = hook(repository, "notebooks")
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

    page = notebooks.Page("look")
    page.add(new_markdown_cell("# Look"))
    outputs = [
        new_output("stream", text="one\n"),
        new_output("display_data", data={"image/png": "AAAA", "text/plain": "<Figure>"}),
        new_output("execute_result", data={"text/plain": "'two'"}),
    ]
    page.add(new_code_cell("look()", outputs=outputs))
    text = "\n".join(page.parts)
    assert "(look.ipynb)" in text and "```python\nlook()\n```" in text and "look_1.png" in text and "'two'" in text
    assert "<Figure>" not in text and page.images == {"look_1.png": b"\0\0\0"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_any_folder(path: Path, repository: Path) -> None:
    done = hook(repository, "notebooks").run(path)
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_install_from_the_address_of_the_project(path: Path, repository: Path) -> None:
    address = hook(repository, "repository").address((repository / "pyproject.toml").read_text(encoding="utf-8"))
    first = next(cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code")
    expected = None if address is None else f"git+{address}"
    assert f"SOURCE = {expected!r}".replace("'", '"') in "".join(first["source"])


def test_pages_link_to_a_public_repository_only_if_there_is_one(repository: Path) -> None:
    links = hook(repository, "repository")
    project = '[project]\nname = "captioner"\n\n[project.urls]\nHomepage = "https://example.org"\n'
    source = "https://github.com/owner/name"
    assert links.address(project) is None and links.colab(None, "a.ipynb") is None
    assert links.address(f'{project}Source = "{source}/"\n\n[tool]\n') == source
    assert links.address(f'{project}\n[tool]\nSource = "{source}"\n') is None
    assert links.colab(source, "docs/a.ipynb") == (
        "https://colab.research.google.com/github/owner/name/blob/main/docs/a.ipynb"
    )
    assert links.colab("https://gitlab.com/owner/name", "a.ipynb") is None


@pytest.mark.slow
def test_a_notebook_that_fails_fails_the_site(repository: Path, tmp_path: Path) -> None:
    notebooks = hook(repository, "notebooks")
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    path = tmp_path / "broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.run(path)


def test_roles_of_docstrings_become_links(repository: Path) -> None:
    roles = hook(repository, "roles")
    import griffe

    with griffe.temporary_visited_package(
        "sample",
        {"__init__.py": 'class A:\n    """See :meth:`A.f` and :class:`~captioner.B`."""\n    def f(self): ...\n'},
        extensions=griffe.load_extensions(roles.Roles()),
    ) as package:
        roles.Roles().on_package(pkg=package)
        text = package["A"].docstring.value
    assert 'identifier="sample.A.f"><code>A.f</code>' in text and 'identifier="captioner.B"><code>B</code>' in text


def test_tables_are_those_of_the_json_files(repository: Path) -> None:
    inline = hook(repository, "inline")
    assert "| `show_attend_tell` |" in inline.table("scores")
    for name in ("scores_flickr8k", "scores_coco", "diversity", "speed"):
        assert "| show_attend_tell |" in inline.table(name)
    assert "| seq2seq |" in inline.table("translation")
    with pytest.raises(Exception, match="no table 'nothing'"):
        inline.table("nothing")


@pytest.mark.parametrize("page", PAGES)
def test_every_table_has_a_writer(page: str, repository: Path) -> None:
    for name in re.findall(r"<!-- table: (\w+) -->", (DOCS / page).read_text(encoding="utf-8")):
        assert hook(repository, "inline").table(name)


def test_every_command_has_a_page_with_all_its_options(repository: Path) -> None:
    commands = hook(repository, "commands")
    names = [name for name, *_ in commands.all_commands()]
    assert {"caption", "train", "data inspect"} <= set(names)
    assert all(f"[`captioner {name}`]" in commands.index() for name in names)
    for name, call, examples in commands.all_commands():
        page = commands.page(name, call, examples)
        command = get_command(app)
        for part in name.split():
            command = command.commands[part]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name not in ("quiet", "verbose", "code", "help"):
                assert all(f"`{option}`" in page for option in parameter.opts), f"{name}: {parameter.opts}"


def test_options_stand_in_their_groups(repository: Path) -> None:
    commands = hook(repository, "commands")

    def run(
        path: Annotated[Path, typer.Argument(help="A file.")],
        beam: Annotated[int | None, typer.Option(min=1, help="Beam width.", rich_help_panel="Search")] = None,
        device: Annotated[str, typer.Option("--device", "-d", help="cpu or | cuda.")] = "auto",
    ) -> None:
        """Caption.

        One sentence.
        """

    page = commands.page("run", run, ["captioner run a.jpg"])
    arguments, options, search = re.split("^## ", page, flags=re.MULTILINE)[1:]
    assert "| `PATH` | path | required | A file. |" in arguments
    assert options.startswith("Options") and "| `--device`, `-d` | text | `auto` | cpu or \\| cuda. |" in options
    assert search.startswith("Search") and "| `--beam` | int ≥ 1 |  | Beam width. |" in search
    assert "One sentence." in page and "captioner run a.jpg" in page


def test_diagrams_are_those_of_the_script(repository: Path) -> None:
    diagrams = hook(repository, "diagrams")
    for name, draw in diagrams.DIAGRAMS.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8") == draw()


def test_every_diagram_of_a_page_has_a_form_for_phones(repository: Path) -> None:
    inline = hook(repository, "inline")
    for page in PAGES:
        for name in re.findall(r"\((?:\.\./)?figures/(\w+)\.svg\)", (DOCS / page).read_text(encoding="utf-8")):
            shown = f'<p><img alt="What it shows" src="../figures/{name}.svg" /></p>'
            html = inline.on_page_content(shown, config=SimpleNamespace(docs_dir=DOCS))
            widths = re.findall(r'class="(\w+)"[^>]*viewBox="0 0 (\d+) ', html)
            assert widths == [("phone", "400"), ("wide", "720")]
            assert html.count('role="img" aria-label="What it shows"') == 2


def test_a_figure_has_a_form_for_phones_if_there_is_one(repository: Path) -> None:
    inline = hook(repository, "inline")
    config = SimpleNamespace(docs_dir=DOCS)
    html = inline.on_page_content('<p><img alt="A" src="../figures/soft.webp" /></p>', config=config)
    assert 'srcset="../figures/soft_phone.webp"' in html and '<img alt="A" src="../figures/soft.webp" />' in html
    alone = '<p><img alt="A" src="../figures/page.webp" /></p>'
    assert inline.on_page_content(alone, config=config) == alone


def test_the_figure_of_the_home_page_is_the_page_of_attend(repository: Path) -> None:
    html = hook(repository, "explorer").on_page_content("<p>a</p><!-- explorer: dog.jpg --><p>b</p>")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', html)
    assert data is not None and html.startswith("<p>a</p><style>.figure {") and html.endswith("</script><p>b</p>")
    best = json.loads(data[1])["captions"][0]
    assert "dog" in best["tokens"] and len(best["peaks"]) == len(best["tokens"])
    assert "<h1" not in html and "http" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


def test_the_figure_of_the_home_page_follows_the_pointer(repository: Path) -> None:
    """In a page that runs its scripts again, as the site does when a reader comes back."""
    html = hook(repository, "explorer").figure("dog.jpg")
    with launched() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        show = "html => document.body.replaceChildren(document.createRange().createContextualFragment(html))"
        for _ in range(2):
            page.evaluate(show, html)
        words = page.locator(".figure .words button")
        assert " ".join(words.all_inner_texts()).lower().startswith("a brown and black dog")
        words.nth(4).hover()
        assert page.locator(".figure .status").inner_text().startswith("“dog” looked most")
        assert page.evaluate("document.documentElement.scrollWidth") == 390 and errors == []


def test_a_reader_hears_the_search_by_its_name(repository: Path) -> None:
    theme = hook(repository, "theme")
    assert theme.on_post_page('<div class="md-search" role="dialog">') == (
        '<div class="md-search" role="dialog" aria-label="Search">'
    )
    assert theme.ICON.read_bytes().startswith(b"<svg")


def test_a_folder_of_versions_leads_to_the_newest(repository: Path, tmp_path: Path) -> None:
    version = hook(repository, "version")
    folder = tmp_path / "versions"
    for name in ("0.10.0", "0.9.1", "0.9.1"):
        site = tmp_path / "site"
        site.mkdir()
        (site / "index.html").write_text(name)
        version.add(folder, name, site)
    listed = json.loads((folder / "versions.json").read_text(encoding="utf-8"))
    assert [(entry["version"], entry["aliases"]) for entry in listed] == [("0.10.0", ["latest"]), ("0.9.1", [])]
    assert "url=0.10.0/" in (folder / "index.html").read_text(encoding="utf-8")
    assert (folder / "0.9.1" / "index.html").read_text() == "0.9.1"


def test_the_demos_page_has_the_command_where_it_cannot_be_made(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    demo = hook(repository, "demo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ((name, content),) = demo._contents().items()
    assert name == "index.html" and b"captioner export show_attend_tell --web site" in content
