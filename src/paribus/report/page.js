// Draws the figures, sorts the tables, copies and saves. Everything it needs is inside the page.
const root = document.documentElement;
const configs = JSON.parse(document.getElementById("configs").textContent);
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const figures = [...document.querySelectorAll("figure")];
const GAP = 36;  // px between the panels of a figure, as in the theme
const NARROWEST_PANEL = 250;  // px

let isPrinting = false;  // paper is white
const scheme = () => isPrinting ? "light" : root.dataset.scheme ?? (prefersDark.matches ? "dark" : "light");

// --- figures

function rowsOf({ rows, columns }) {
  const fields = Object.entries(columns).map(([field, { values, levels, codes }]) =>
    [field, values ? (i) => values[i] : (i) => levels[codes[i]]]);
  return Array.from({ length: rows }, (_, i) => Object.fromEntries(fields.map(([field, at]) => [field, at(i)])));
}

function specOf(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  for (const name of Object.keys(spec.datasets ?? {})) spec.datasets[name] = rowsOf(spec.datasets[name]);
  return spec;
}

// Vega sets as many entries of a legend side by side as it is told, whatever the width: tell it what fits.
function fitLegends(spec, width) {
  const rows = Object.values(spec.datasets ?? {}).flat();
  const fit = (encoding) => {
    const field = encoding.field.replaceAll("\\", "");
    const longest = Math.max(...new Set(rows.map((row) => String(row[field] ?? "").length)));
    const title = encoding.title ? 12 + 6.5 * encoding.title.length : 0;
    encoding.legend = { ...encoding.legend, columns: Math.max(1, Math.floor((width - 40 - title) / (42 + 6.5 * longest))) };
  };
  const visit = (node) => {
    for (const [key, child] of Object.entries(node ?? {})) {
      if (key === "datasets" || typeof child !== "object") continue;
      if ((key === "color" || key === "strokeDash") && ["nominal", "ordinal"].includes(child?.type)) child.legend !== null && fit(child);
      else visit(child);
    }
  };
  visit(spec);
}

// What depends on the width beyond the plain stretching that Vega does itself.
function layoutAt(width, spec) {
  const isNarrow = width < 560;
  const legend = {
    gradientLength: Math.max(80, Math.min(180, width - 270)),
    layout: { top: { anchor: "start", direction: isNarrow ? "vertical" : "horizontal", margin: isNarrow ? 8 : 28 } },
  };
  fitLegends(spec, width);
  if (spec.facet) spec.columns = Math.max(1, Math.min(spec.columns, Math.floor((width + GAP) / (NARROWEST_PANEL + GAP))));
  return legend;
}

async function draw(figure) {
  const chart = figure.querySelector(".chart");
  const width = chart.clientWidth;
  const drawn = `${scheme()} ${width}`;
  if (!width || figure.dataset.drawnAs === drawn) return;
  figure.dataset.drawnAs = drawn;
  const spec = specOf(figure);
  const config = structuredClone(configs[scheme()]);
  Object.assign(config.legend, layoutAt(width, spec));
  if (spec.facet) spec.spec.width = Math.floor(width / spec.columns) - 2 * GAP;
  await embed(figure, spec, config);
  // what the axes' labels take is known only now: give the panels what is left
  const spare = width - chart.firstElementChild.getBoundingClientRect().width;
  if (!spec.facet || Math.abs(spare) < 2) return;
  spec.spec.width += Math.floor(spare / spec.columns);
  await embed(figure, spec, config);
}

async function embed(figure, spec, config) {
  figure.view?.finalize();
  const { view } = await window.vegaEmbed(figure.querySelector(".chart"), spec, {
    config, ast: true, actions: false, defaultStyle: false, renderer: figure.dataset.renderer,
    tooltip: { disableDefaultStyle: true },
  });
  figure.view = view;
  figure.dataset.drawn = scheme();
}

// Drawing waits for nothing but itself: without pauses all figures are there when the browser comes back to its own work.
async function drawAll(pauses = true) {
  const middle = scrollY + innerHeight / 2;
  const distance = (figure) => Math.abs(figure.getBoundingClientRect().top + scrollY - middle);
  for (const figure of figures.toSorted((a, b) => distance(a) - distance(b))) {
    try {
      await draw(figure);
    } catch (error) {
      console.error(figure.id, error);  // the others are drawn all the same
    }
    if (pauses) await new Promise((resume) => setTimeout(resume));  // let the page answer between two figures
  }
  root.dataset.ready = scheme();
}

let pending;
function redraw() {
  clearTimeout(pending);
  pending = setTimeout(drawAll, 120);
}

drawAll(false);  // before the page counts as loaded: whoever prints or photographs it then misses no figure
new ResizeObserver(redraw).observe(document.querySelector("main"));
prefersDark.addEventListener("change", redraw);
document.addEventListener("toggle", redraw, true);  // figures inside folded details have no width before
addEventListener("beforeprint", () => {
  isPrinting = true;
  drawAll(false);
});
addEventListener("afterprint", () => {
  isPrinting = false;
  redraw();
});
document.getElementById("scheme").addEventListener("click", () => {
  root.dataset.scheme = scheme() === "dark" ? "light" : "dark";
  drawAll();
});

// --- tables

const valueOf = (cell) => cell.dataset.v ?? cell.textContent;

function sort(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const isNumeric = header.classList.contains("n");
  const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");  // what is absent stays at the end
    return sign * (isNumeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].toSorted((a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column]))));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
}

// Rows that hold every word that was typed; what is copied or saved is the whole table all the same.
function filter(field) {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of field.closest(".table").querySelector("tbody").rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}

document.addEventListener("input", ({ target }) => target.matches?.('.table input[type="search"]') && filter(target));

const linesOf = (table) => [...table.rows].map((row) =>
  [...row.cells].map((cell) => (cell.tagName === "TH" ? cell.textContent : valueOf(cell)).trim()));
const tsv = (lines) => lines.map((line) => line.map((field) => field.replace(/[\t\n]/g, " ")).join("\t")).join("\n") + "\n";
const quoted = (field) => (/[",\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field);
const csv = (lines) => lines.map((line) => line.map((field) => quoted(String(field ?? ""))).join(",")).join("\n") + "\n";

// --- copying and saving

function announce(text) {
  const note = document.getElementById("announce");
  note.textContent = text;
  note.classList.add("shown");
  setTimeout(() => note.classList.remove("shown"), 1600);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    announce("Copied");
  } catch {
    announce("The browser does not let this page copy");
  }
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function dataOf(figure) {
  const tables = Object.values(specOf(figure).datasets ?? {}).filter((rows) => rows.length);
  return tables.map((rows) => csv([Object.keys(rows[0]), ...rows.map((row) => Object.values(row))])).join("\n");
}

const actions = {
  async svg(button) {
    const figure = button.closest("figure");
    save(`${figure.id}.svg`, "image/svg+xml", await figure.view.toSVG());
  },
  data(button) {
    const figure = button.closest("figure");
    save(`${figure.id}.csv`, "text/csv", dataOf(figure));
  },
  copy: (button) => copy(tsv(linesOf(button.closest(".table").querySelector("table")))),
  csv(button) {
    const table = button.closest(".table").querySelector("table");
    save(`${table.id}.csv`, "text/csv", csv(linesOf(table)));
  },
  code: (button) => copy(button.parentElement.querySelector("code").textContent),
};

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("button");
  if (!button) return;
  if (button.dataset.do) actions[button.dataset.do](button);
  else if (button.parentElement.tagName === "TH") sort(button.parentElement);
});

// --- contents

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const visible = new Set();
const reading = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) isIntersecting ? visible.add(target.id) : visible.delete(target.id);
  const current = [...links.keys()].find((id) => visible.has(id));
  if (!current) return;
  for (const [id, link] of links) id === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
}, { rootMargin: "-20% 0px -60%" });
for (const id of links.keys()) reading.observe(document.getElementById(id));
