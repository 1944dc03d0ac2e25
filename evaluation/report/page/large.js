// The large view holds a copy of a figure, a list of its instances, and the same filters.
const figureOf = (key) => all("figure[data-image]").find((f) => f.dataset.image === key);
const figuresShown = () => all("figure[data-image]").filter((f) => !f.hidden);

function instanceRows(frame) {
  const lists = [one("g.truth", frame), one("g.prediction:not(.other)", frame)];
  return lists.filter(Boolean).flatMap((group) => [...group.children]).filter((path) => {
    const truth = path.parentNode.classList.contains("truth");
    return !path.classList.contains("off") && (truth ? state.truth : state.prediction);
  });
}

function cellOf(text, value, numeric) {
  const cell = document.createElement("td");
  cell.textContent = text;
  cell.dataset.value = value;
  if (numeric) cell.className = "number";
  return cell;
}

function instanceRow(path) {
  const { class: name, score = "", error = "", iou = "", area = "" } = path.dataset;
  const row = document.createElement("tr");
  const truth = path.parentNode.classList.contains("truth");
  const kind = truth ? "truth" : "prediction";
  row.append(
    cellOf(kind, kind), cellOf(name, name), cellOf(kindWord(error), error),
    cellOf(score && Number(score).toFixed(3), score, true), cellOf(iou, iou, true),
    cellOf(area && Number(area).toLocaleString("en"), area, true),
  );
  row.tabIndex = 0;
  const mark = (on) => () => path.classList.toggle("marked", on);
  for (const event of ["pointerenter", "focus"]) row.addEventListener(event, mark(true));
  for (const event of ["pointerleave", "blur"]) row.addEventListener(event, mark(false));
  return row;
}

function instanceTable(frame) {
  const table = document.createElement("table");
  table.className = "sortable";
  const head = table.createTHead().insertRow();
  ["what", "class", "kind", "score", "IoU", "area"].forEach((name, i) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.setAttribute("aria-sort", "none");
    if (i > 2) cell.className = "number";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    cell.append(button);
    head.append(cell);
  });
  table.createTBody().append(...instanceRows(frame).map(instanceRow));
  return table;
}

function fillLarge(figure) {
  const views = one(".views", figure).cloneNode(true);
  for (const element of [views, ...all("[id]", views)]) element.removeAttribute("id");
  one("#large-views").replaceChildren(views);
  one("#large-name").textContent = figure.dataset.name;
  one("#large-note").textContent = all("figcaption .of, figcaption .truth", figure)
    .map((x) => x.textContent).join(" · ");
  const list = one("#large-list");
  list.replaceChildren();
  if (!one("svg.shapes", views)) return;
  for (const frame of all(".frame", views)) {
    if (frame.dataset.name) {
      const title = document.createElement("h3");
      title.textContent = frame.dataset.name;
      list.append(title);
    }
    const box = document.createElement("div");
    box.className = "scroll";
    box.append(instanceTable(frame));
    list.append(box);
  }
  watchTables(list, false);
}

function refreshLarge() {
  const figure = figureOf(state.image);
  if (one("#large").open && figure) fillLarge(figure);
}

// Shows the image of the state, or closes the large view where there is none.
function applyLarge() {
  const dialog = one("#large");
  const figure = figureOf(state.image);
  if (!figure) {
    state.image = "";
    if (dialog.open) dialog.close();
    return;
  }
  fillLarge(figure);
  select(figure);
  if (dialog.open) return;
  dialog.showModal();
  dialog.focus();
}

function openLarge(key) {
  const fresh = !state.image;
  state.image = key;
  applyLarge();
  writeState(fresh);
}

function select(figure) {
  for (const other of all("figure[data-image][aria-current]")) other.removeAttribute("aria-current");
  figure.setAttribute("aria-current", "true");
  figure.scrollIntoView({ block: "center" });
}

// Moves by one image, in the large view or, when that is closed, among the figures.
function move(step) {
  const figures = figuresShown();
  if (!figures.length) return;
  const now = figures.findIndex((f) => f.getAttribute("aria-current") === "true");
  const next = now < 0 ? (step > 0 ? 0 : figures.length - 1)
    : Math.min(figures.length - 1, Math.max(0, now + step));
  if (one("#large").open) return openLarge(figures[next].dataset.image);
  select(figures[next]);
  return figures[next].focus({ preventScroll: true });
}

function watchLarge() {
  const dialog = one("#large");
  document.addEventListener("click", (event) => {
    const figure = event.target.closest?.("main figure[data-image]");
    if (figure && event.target.closest(".views")) openLarge(figure.dataset.image);
    const link = event.target.closest?.("a.go");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      openLarge(link.hash.slice("#image-".length));
    }
  });
  dialog.addEventListener("close", () => {
    state.image = "";
    writeState();
    one("figure[aria-current]")?.focus({ preventScroll: true });
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  one("#previous").addEventListener("click", () => move(-1));
  one("#next").addEventListener("click", () => move(1));
  one("#close").addEventListener("click", () => dialog.close());
}
