// Copies of embedded files, the state of the address, charts; then the page is ready.
const MILLISECONDS = 1500; // for charts; the rest of them follows once the page is ready (A842)

function copyFiles() {
  for (const image of all("img[data-copy]")) {
    image.src = document.getElementById(image.dataset.copy).src;
  }
}

function goTo(id) {
  const section = document.getElementById(id);
  if (!section) return;
  section.scrollIntoView();
  document.getElementById(`${id}-heading`)?.focus({ preventScroll: true });
}

function watchContents() {
  const links = all("nav.contents a");
  one("nav.contents").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    state.place = link.hash.slice(1);
    goTo(state.place);
    writeState();
  });
  const mark = (id) => {
    for (const link of links) {
      if (link.hash === `#${id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) mark(entry.target.id);
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const section of all("main section")) seen.observe(section);
}

function applyAddress() {
  forgetWaiting();
  readState(location.hash);
  applyState();
  applySorts();
  applyLarge();
}

async function start() {
  copyFiles();
  watchFilters();
  watchTables();
  watchTips();
  watchLarge();
  watchKeys();
  watchContents();
  watchColours();
  applyAddress();
  if (state.place && !state.image) goTo(state.place);
  const rest = await drawCharts(MILLISECONDS);
  const loaded = Promise.all(all("img").map((image) => image.decode().catch(() => undefined)));
  await Promise.race([loaded, new Promise((resolve) => { setTimeout(resolve, 500); })]);
  if (state.place && !state.image) document.getElementById(state.place)?.scrollIntoView();
  document.body.dataset.ready = "true";
  addEventListener("popstate", applyAddress);
  addEventListener("hashchange", applyAddress);
  await rest();
}

start();
