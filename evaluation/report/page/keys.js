// Keys act everywhere but where text is typed; arrows keep their meaning in sliders and choices.
function toggle(name) {
  state[name] = !state[name];
  changed();
}

function nextRun() {
  const values = [...new Set(all("input[data-run-choice]").map((x) => x.value))];
  if (!values.length) return;
  state.run = values[(values.indexOf(state.run) + 1) % values.length];
  changed();
}

function help() {
  const dialog = one("#help");
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

const actions = {
  j: () => move(1), k: () => move(-1), ArrowRight: () => move(1), ArrowLeft: () => move(-1),
  t: () => toggle("truth"), p: () => toggle("prediction"), o: () => toggle("fill"), r: nextRun,
  "?": help,
};
const largeActions = { ArrowDown: () => move(1), ArrowUp: () => move(-1) };

function ownArrows(target) {
  return target.matches?.("input[type=range], input[type=radio], .scroll, pre") ?? false;
}

function watchKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow") && ownArrows(event.target)) return;
    if (one("#help").open && event.key !== "?") return;
    if (event.key === "Enter" && event.target.matches?.("figure[data-image]")) {
      event.preventDefault();
      openLarge(event.target.dataset.image);
      return;
    }
    const action = actions[event.key] ?? (one("#large").open ? largeActions[event.key] : undefined);
    if (!action) return;
    event.preventDefault();
    action();
  });
  one("#show-help").addEventListener("click", help);
  one("#close-help").addEventListener("click", help);
}
