"""HTML frame and style of the page.

The page is one file that loads nothing, follows the reader's light or dark mode, and is readable on a phone.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f7f7f5; --card: #fff; --ink: #1b1b1a; --soft: #5c5c58; --line: #dededa;
  --good: #0b6b4f; --good-ground: #e2f3ec; --shadow: 0 1px 3px rgb(0 0 0 / .08);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #151617; --card: #1f2123; --ink: #ececea; --soft: #a5a6a3; --line: #37393b;
    --good: #7fdcb8; --good-ground: #17362b; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--ink); background: var(--ground);
}
header, main, footer { max-width: 96rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
footer { padding-top: 1rem; padding-bottom: 3rem; color: var(--soft); font-size: .9rem; }
h1 {
  font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.015em;
  overflow-wrap: anywhere;
}
h2 { font-size: 1.3rem; margin: 2.5rem 0 .6rem; }
h3, h4 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
.soft, small, figcaption { color: var(--soft); }
small, figcaption { font-size: .85rem; }
.lead { max-width: 62rem; }
.scroll:focus-visible, .skip:focus-visible { outline: 3px solid #3b82f6; outline-offset: 2px; }
.skip { position: absolute; left: -999rem; color: inherit; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; }
.scroll {
  overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: .75rem; box-shadow: var(--shadow);
}
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td {
  padding: .6rem .9rem; text-align: right; vertical-align: top; white-space: nowrap; border-top: 1px solid var(--line);
}
thead th { border-top: 0; font-size: .85rem; font-weight: 600; color: var(--soft); }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
td small { display: block; }
td strong { color: var(--good); }
abbr { text-decoration: none; }
.dot {
  display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em;
  background: var(--model, var(--soft));
}
img { display: block; max-width: 100%; height: auto; }
figure { margin: .6rem 0 0; }
.plot { margin-top: 1.5rem; }
.plot img {
  background: #fff; border-radius: .75rem; border: 1px solid var(--line); padding: .5rem; width: 100%; max-width: 58rem;
}
article {
  background: var(--card); border: 1px solid var(--line); border-radius: 1rem; box-shadow: var(--shadow);
  padding: 1.25rem; margin: 1.25rem 0;
}
.photo {
  display: grid; grid-template-columns: minmax(14rem, 22rem) 1fr; gap: .75rem 1.5rem;
  align-items: center; margin: .75rem 0 1.25rem;
}
.photo img { border-radius: .6rem; width: 100%; max-height: 22rem; object-fit: contain; object-position: left; }
ul { padding-left: 1.1rem; margin: .4rem 0; color: var(--soft); }
.models {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.25rem;
  align-content: start;
}
.model {
  border: 1px solid var(--line); border-top: 4px solid var(--model, var(--line)); border-radius: .75rem;
  padding: .9rem 1rem 1rem;
}
.model img { border-radius: .5rem; background: #fff; width: 100%; }
.top { display: flex; flex-wrap: wrap; gap: .5rem; align-items: baseline; justify-content: space-between; }
.caption { font-size: 1.2rem; line-height: 1.35; margin: .45rem 0; }
.badge {
  font-size: .78rem; font-weight: 600; color: var(--good); background: var(--good-ground);
  border-radius: 1rem; padding: .1rem .65rem;
}
@media (max-width: 52rem) {
  article { padding: 1rem; }
  .photo { grid-template-columns: 1fr; }
  header, main, footer { padding-left: .8rem; padding-right: .8rem; }
}
@media print {
  body { background: #fff; }
  article { break-inside: avoid; box-shadow: none; }
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#photos">Skip to the photos</a>
<header>
<h1>{title}</h1>
<p class="lead soft">{lead}</p>
</header>
<main>
{summary}
<section id="photos" aria-labelledby="photos-title">
<h2 id="photos-title">{heading}</h2>
<p class="lead soft">{photos}</p>
{articles}
</section>
</main>
<footer><p>{footer}</p></footer>
</body>
</html>
"""
