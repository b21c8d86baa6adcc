"""How a page of sections looks, and what it does when it is clicked on."""

STYLE = """
:root { --ink: #1c2430; --soft: #5d6878; --line: #d9dee6; --back: #f5f7fa;
  --accent: #1f5fa8 }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--back) }
header, main { max-width: 72rem; margin: 0 auto; padding: 0 1rem }
header { padding-top: 1.5rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.2rem; margin: 0 0 .6rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
/* Long names have places to break at; elsewhere a word is split as the last resort. */
h1, h2, h3, h4, p, li, figcaption, summary, td, th { overflow-wrap: break-word }
p { margin: .4rem 0; max-width: 60rem }
header p { color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; padding: .6rem 0;
  border-bottom: 1px solid var(--line) }
a { color: var(--accent); text-decoration: none }
a:hover { text-decoration: underline }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem; margin: 1rem 0 }
.wide { overflow-x: auto; max-height: 34rem; overflow-y: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .93em }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); max-width: 26rem; min-width: 2.5rem }
th { color: var(--soft); font-weight: 600; position: sticky; top: 0;
  background: #fff; white-space: nowrap }
.tiles { display: grid; gap: .6rem; margin-bottom: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)) }
.tiles div { background: var(--back); border-radius: 6px; padding: .5rem .8rem }
.tiles b { display: block; font-size: 1.25rem; font-weight: 600; line-height: 1.4;
  font-variant-numeric: tabular-nums }
.tiles span { display: block; font-size: .8rem; line-height: 1.3;
  color: var(--soft); overflow-wrap: break-word }
.number { text-align: right; white-space: nowrap }
pre { background: var(--back); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: break-word;
  font-size: .85em; margin: .4rem 0 }
details { margin: .4rem 0 }
summary { cursor: pointer; color: var(--accent) }
figure { margin: 0 }
img { display: block; cursor: pointer; background: #eee }
img:focus-visible { outline: 2px solid var(--accent) }
.plots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)) }
.plot { max-width: 40rem }
.plot img { width: 100%; height: auto; background: #fff }
figcaption { font-size: .75rem; line-height: 1.3; color: var(--soft);
  padding-top: .15rem }
.gallery { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(80px, 1fr)) }
.gallery img { width: 100%; aspect-ratio: 1; object-fit: contain;
  image-rendering: pixelated }
.wrong figcaption { color: #b00020 }
.choose { display: flex; flex-wrap: wrap; gap: .4rem; margin: .4rem 0 }
.choose button { font: inherit; padding: .15rem .7rem; border-radius: 1rem;
  border: 1px solid var(--line); background: #fff; cursor: pointer }
.choose button[aria-pressed=true] { background: var(--accent); color: #fff;
  border-color: var(--accent) }
.sorted > div:last-child { max-height: 44rem; overflow-y: auto }
.sorted h4 { margin: .9rem 0 .3rem; font-size: .9rem; font-weight: 600 }
dialog { border: 0; border-radius: 8px; padding: 1rem; max-width: 94vw;
  cursor: pointer }
dialog::backdrop { background: rgb(10 16 26 / .75) }
dialog img { image-rendering: pixelated; cursor: pointer; margin: 0 auto;
  width: min(86vw, 78vh); max-height: 78vh; object-fit: contain }
dialog p { color: var(--soft); margin: .5rem 0 0 }
dialog .smooth { image-rendering: auto; width: min(90vw, 76rem) }
"""

SCRIPT = """
"use strict";
const large = document.createElement("dialog");
document.body.append(large);
large.addEventListener("click", () => large.close());
function enlarge(image) {
  const copy = document.createElement("img"), text = document.createElement("p");
  copy.src = image.src;
  copy.alt = image.alt;
  copy.className = image.closest(".plot") ? "smooth" : "";
  text.textContent = image.alt;
  large.replaceChildren(copy, text);
  large.showModal();
}
for (const image of document.querySelectorAll("img")) {
  image.addEventListener("click", () => enlarge(image));
  image.addEventListener("keydown", event => {
    if (event.key === "Enter") enlarge(image);
  });
}
for (const place of document.querySelectorAll(".sorted")) {
  const names = place.dataset.by.split("|");
  const shown = [...place.querySelectorAll("figure")];
  const buttons = document.createElement("div"), groups = document.createElement("div");
  buttons.className = "choose";
  function sort(number) {
    const found = new Map();
    for (const figure of shown) {
      const name = figure.dataset["g" + number];
      if (!found.has(name)) found.set(name, []);
      found.get(name).push(figure);
    }
    groups.replaceChildren();
    for (const [name, figures] of found) {
      const title = document.createElement("h4"), row = document.createElement("div");
      title.textContent = name;
      row.className = "gallery";
      row.append(...figures);
      groups.append(title, row);
    }
    [...buttons.children].forEach((button, other) =>
      button.setAttribute("aria-pressed", other === number));
  }
  names.forEach((name, number) => {
    const button = document.createElement("button");
    button.textContent = "by " + name;
    button.addEventListener("click", () => sort(number));
    if (names.length > 1) buttons.append(button);
  });
  place.replaceChildren(buttons, groups);
  sort(0);
}
"""
