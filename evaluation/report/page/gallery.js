// One score, one set of classes and one set of kinds act on all images at once.
const galleries = () => all("section[data-truth], dialog[data-truth]");

function onOff(value) {
  return value ? "on" : "off";
}

function isShown(path, prediction) {
  if (state.classes.has(path.dataset.class) || state.errors.has(path.dataset.error)) return false;
  return !prediction || path.dataset.score === "" || Number(path.dataset.score) >= state.score;
}

function filterShapes(root) {
  for (const path of all("svg.shapes path", root)) {
    const prediction = path.parentNode.classList.contains("prediction");
    path.classList.toggle("off", !isShown(path, prediction));
  }
}

// The address may name a run that the page does not have.
function runsShown() {
  const runs = [...new Set(all("input[data-run-choice]").map((x) => x.value))].filter((x) => x !== "all");
  if (state.run === "all" && runs.length) return runs;
  return [runs.includes(state.run) ? state.run : "0"];
}

// Side by side, every further run has a copy of the image, which shares its pixels with the first.
function arrangeFrames(views, runs) {
  const [first, ...rest] = all(".frame", views);
  rest.forEach((frame) => frame.remove());
  first.dataset.run = runs[0];
  for (const run of runs.slice(1)) {
    const copy = first.cloneNode(true);
    copy.dataset.run = run;
    one("img", copy)?.removeAttribute("id");
    views.append(copy);
  }
  for (const frame of all(".frame", views)) {
    const name = runs.length > 1 ? runName(frame.dataset.run) : "";
    frame.dataset.name = name;
    for (const group of all("g.prediction", frame)) {
      group.classList.toggle("other", group.dataset.run !== frame.dataset.run);
    }
    for (const path of all("g.truth path[data-errors]", frame)) {
      path.dataset.error = path.dataset.errors.split(" ")[frame.dataset.run];
    }
  }
}

function runName(run) {
  const input = one(`input[data-run-choice][value="${CSS.escape(run)}"]`);
  return input ? input.parentNode.textContent.trim() : "";
}

function applyRuns() {
  const runs = runsShown();
  for (const root of galleries()) root.dataset.run = runs.length > 1 ? "all" : runs[0];
  for (const views of all("#gallery .views")) arrangeFrames(views, runs);
  for (const frame of all(".bags .frame")) {
    frame.classList.toggle("other", !runs.includes(frame.dataset.run));
  }
}

function countShown() {
  const gallery = one("#gallery");
  if (!gallery) return;
  const run = runsShown()[0];
  const predictions = all(`.frame[data-run="${CSS.escape(run)}"] g.prediction:not(.other) path`, gallery);
  const truth = all(`.frame[data-run="${CSS.escape(run)}"] g.truth path`, gallery);
  const count = (list, on) => (on ? list.filter((p) => !p.classList.contains("off")).length : 0);
  const of = state.run === "all" ? ` of ${runName(run)}` : "";
  one("#shown").textContent =
    `${count(predictions, state.prediction)} of ${predictions.length} predictions${of} and ` +
    `${count(truth, state.truth)} of ${truth.length} objects are shown in ` +
    `${all("figure[data-image]", gallery).length} images.`;
  const classes = all("input[data-filter=class]", gallery);
  const counter = one("#class-count");
  if (counter) counter.textContent = `${classes.filter((c) => c.checked).length} of ${classes.length}`;
}

function applyControls() {
  for (const box of all("input[data-toggle]")) box.checked = state[box.dataset.toggle];
  for (const box of all("input[data-filter=error]")) box.checked = !state.errors.has(box.value);
  for (const box of all("input[data-filter=class]")) box.checked = !state.classes.has(box.value);
  for (const box of all("input[data-run-choice]")) box.checked = box.value === state.run;
  const slider = one("#score");
  if (slider) {
    slider.value = state.score;
    slider.parentNode.querySelector("output").textContent = state.score.toFixed(2);
  }
}

function applyState() {
  const runs = runsShown();
  state.run = runs.length > 1 ? "all" : runs[0];
  for (const root of galleries()) {
    root.dataset.truth = onOff(state.truth);
    root.dataset.prediction = onOff(state.prediction);
    if ("fill" in root.dataset) root.dataset.fill = onOff(state.fill);
  }
  applyRuns();
  filterShapes(document);
  for (const bag of all(".bags figure")) {
    bag.hidden = state.wrong && !one(".frame[data-wrong]:not(.other)", bag);
  }
  applyControls();
  countShown();
}

function changed() {
  applyState();
  refreshLarge();
  writeState();
}

function watchFilters() {
  for (const form of all("form.filters")) {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      const { target } = event;
      if (target.dataset.toggle) state[target.dataset.toggle] = target.checked;
      else if (target.id === "score") state.score = Number(target.value);
      else if (target.dataset.runChoice !== undefined) state.run = target.value;
      else if (target.dataset.filter) {
        const off = target.dataset.filter === "class" ? state.classes : state.errors;
        if (target.checked) off.delete(target.value);
        else off.add(target.value);
      }
      changed();
    });
    form.addEventListener("click", (event) => {
      const which = event.target.dataset.classes;
      if (which) {
        const names = all("input[data-filter=class]", form).map((box) => box.value);
        state.classes = new Set(which === "none" ? names : []);
        changed();
      } else if (event.target.id === "reset") {
        const { place, image, sorts } = state;
        resetState();
        Object.assign(state, { place, image, sorts });
        changed();
      }
    });
  }
}

// The word of the filters for a kind, such as "missed" for miss.
function kindWord(kind) {
  const input = one(`#gallery input[data-filter=error][value="${CSS.escape(kind)}"]`);
  return input ? input.parentNode.textContent.trim() : kind;
}

function describe(path) {
  const { class: name, score, error, iou, area } = path.dataset;
  const truth = path.parentNode.classList.contains("truth");
  const parts = [`${truth ? "truth" : "prediction"}: ${name}`];
  if (score) parts.push(`score ${Number(score).toFixed(3)}`);
  if (error) parts.push(kindWord(error));
  if (iou) parts.push(`IoU ${iou}`);
  if (area) parts.push(`${Number(area).toLocaleString("en")} px`);
  return parts.join(" · ");
}

function watchTips() {
  const tip = one("#tip");
  document.addEventListener("pointermove", (event) => {
    const path = event.target.closest?.("svg.shapes path");
    tip.hidden = !path;
    if (!path) return;
    const host = one("dialog[open]") ?? document.body; // above a dialog, only its children are seen
    if (tip.parentNode !== host) host.append(tip);
    tip.textContent = describe(path);
    const x = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 8}px`;
  });
}
