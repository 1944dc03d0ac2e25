// What the reader sees is one object, which the address holds after its hash:
// #gallery&score=0.3&truth=off&kinds=-loc,-dupe&image=KEY. Entries that equal the default are left out.
const page = JSON.parse(document.getElementById("page-data").textContent);
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

const state = {
  place: "", truth: true, prediction: true, fill: false, wrong: false, score: page.score,
  run: "0", image: "", errors: new Set(), classes: new Set(), sorts: new Map(),
};

const lists = { errors: "kinds", classes: "classes" };

function resetState() {
  Object.assign(state, {
    place: "", truth: true, prediction: true, fill: false, wrong: false, score: page.score,
    run: "0", image: "", errors: new Set(), classes: new Set(), sorts: new Map(),
  });
}

function stateText() {
  const parts = [];
  if (!state.truth) parts.push("truth=off");
  if (!state.prediction) parts.push("prediction=off");
  if (state.fill) parts.push("fill=on");
  if (state.wrong) parts.push("wrong=on");
  if (state.score !== page.score) parts.push(`score=${state.score}`);
  if (state.run !== "0") parts.push(`run=${state.run}`);
  for (const [key, name] of Object.entries(lists)) {
    if (state[key].size) {
      parts.push(`${name}=${[...state[key]].map((v) => `-${encodeURIComponent(v)}`).join(",")}`);
    }
  }
  for (const [table, order] of state.sorts) parts.push(`sort=${table}.${order}`);
  if (state.image) parts.push(`image=${encodeURIComponent(state.image)}`);
  if (state.place || parts.length) parts.unshift(state.place);
  return parts.join("&");
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign that somebody typed
  }
}

function readState(text) {
  resetState();
  for (const part of text.replace(/^#/, "").split("&")) {
    const [name, ...rest] = part.split("=");
    const value = rest.join("=");
    if (!rest.length) {
      const id = decoded(name);
      if (id.startsWith("image-")) state.image = id.slice(6);
      else state.place = id;
    } else if (["truth", "prediction", "fill", "wrong"].includes(name)) state[name] = value === "on";
    else if (name === "score" && value !== "" && Number.isFinite(Number(value))) {
      state.score = Math.min(1, Math.max(0, Number(value)));
    } else if (name === "run") state.run = value;
    else if (name === "image") state.image = decoded(value);
    else if (name === "sort") {
      const found = value.match(/^(table-\d+)\.(\d+[ad])$/);
      if (found) state.sorts.set(found[1], found[2]);
    } else {
      for (const [key, list] of Object.entries(lists)) {
        if (name === list) {
          state[key] = new Set(value.split(",").map((v) => decoded(v.replace(/^-/, ""))));
        }
      }
    }
  }
}

let writing = 0;
let waiting = null;

function writeNow(text, how) {
  if (text !== location.hash && (text !== "#" || location.hash)) history[how](null, "", text);
}

function writeWaiting() {
  clearTimeout(writing);
  if (waiting !== null) writeNow(waiting, "replaceState");
  waiting = null;
}

function forgetWaiting() {
  clearTimeout(writing);
  waiting = null;
}

// Browsers allow few changes of the address in a short time, so those of a slider wait.
function writeState(push = false) {
  if (push) {
    writeWaiting();
    writeNow(`#${stateText()}`, "pushState");
    return;
  }
  clearTimeout(writing);
  waiting = `#${stateText()}`;
  writing = setTimeout(writeWaiting, 120);
}
