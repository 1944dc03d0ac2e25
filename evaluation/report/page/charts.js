// Charts are drawn by plotly in the colours of the page. Names come from data: plotly reads a few
// tags in texts, so their brackets are escaped.
const config = {
  displaylogo: false, responsive: true,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};

function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function colours() {
  const style = getComputedStyle(document.body);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    ink: read("--ink"), soft: read("--soft"), line: read("--line"), paper: read("--card"),
    band: read("--band"), runs: Array.from({ length: 8 }, (_, i) => read(`--run-${i}`)),
  };
}

function axis(title, tone, more = {}) {
  return {
    title: { text: plain(title), standoff: 8 }, automargin: true, gridcolor: tone.line,
    zerolinecolor: tone.line, linecolor: tone.line, ticks: "", ...more,
  };
}

function layout(tone, xaxis, yaxis, more = {}) {
  const touch = matchMedia("(pointer: coarse)").matches;
  return {
    paper_bgcolor: tone.paper, plot_bgcolor: tone.paper, xaxis, yaxis,
    font: { family: "system-ui, sans-serif", size: 12, color: tone.ink },
    margin: { l: 44, r: 12, t: 8, b: 40 }, hovermode: "x unified", dragmode: touch ? false : "zoom",
    hoverlabel: { bgcolor: tone.paper, bordercolor: tone.line, font: { color: tone.ink } },
    legend: {
      orientation: "h", x: 0, xanchor: "left", y: 0, yref: "container", yanchor: "bottom",
      font: { size: 11 },
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: tone.soft, activecolor: tone.ink }, ...more,
  };
}

// The middle of a long name is left out: its start and its end tell runs apart.
function brief(name) {
  return name.length > 40 ? `${name.slice(0, 20)}…${name.slice(-19)}` : name;
}

// Lines of a run have its colour, and its second and third line differ by their dashes.
function pens(lines, tone) {
  const used = new Map();
  return lines.map((line, i) => {
    const run = line.run ?? i;
    const turn = (used.get(`${run} ${line.dashed}`) ?? -1) + 1;
    used.set(`${run} ${line.dashed}`, turn);
    const dashes = line.dashed ? ["dash", "8px,3px,2px,3px"] : ["solid", "dot", "dashdot"];
    const repeat = line.run === null && i > 7 ? 1 : turn;
    return { color: tone.runs[run % 8], width: 2, dash: dashes[repeat % dashes.length] };
  });
}

function linesFigure(chart, tone) {
  const lines = pens(chart.lines, tone);
  const data = chart.lines.map((line, i) => ({
    type: "scatter", name: plain(brief(line.name)), x: line.x, y: line.y, connectgaps: false,
    mode: line.x.length < 2 ? "markers" : line.x.length < 16 ? "lines+markers" : "lines",
    marker: { size: 5 }, line: lines[i],
    hovertemplate: "%{y:.4~g}",
  }));
  const unit = { range: [-0.02, 1.02], constrain: "domain" };
  const shapes = chart.diagonal ? [diagonal(tone)] : [];
  return [data, layout(
    tone,
    axis(chart.x, tone, chart.unit ? unit : {}),
    axis(chart.y, tone, chart.unit ? unit : chart.log ? { type: "log", tickformat: "~g" } : { exponentformat: "power" }),
    { shapes, showlegend: chart.lines.length > 1 },
  )];
}

function diagonal(tone) {
  return {
    type: "line", x0: 0, y0: 0, x1: 1, y1: 1, line: { color: tone.soft, width: 1, dash: "dot" },
  };
}

function reliabilityFigure(chart, tone) {
  const { confidence: x, low, high, frequency: y, counts } = chart;
  const total = counts.reduce((a, b) => a + b, 0) || 1;
  const data = [
    { type: "scatter", x, y: low, mode: "lines", line: { width: 0 }, hoverinfo: "skip" },
    {
      type: "scatter", x, y: high, mode: "lines", line: { width: 0 }, fill: "tonexty",
      fillcolor: tone.band, hoverinfo: "skip",
    },
    {
      type: "scatter", x, y, mode: "lines+markers", customdata: counts,
      line: { color: tone.runs[chart.run % 8], width: 2 },
      marker: { color: tone.runs[chart.run % 8], size: counts.map((n) => 5 + 13 * Math.sqrt(n / total)) },
      hovertemplate: "confidence %{x:.3f}<br>frequency %{y:.3f}<br>%{customdata} scores<extra></extra>",
    },
    {
      type: "bar", x, y: counts, yaxis: "y2", width: 0.02, marker: { color: tone.soft },
      hovertemplate: "%{y} scores<extra></extra>",
    },
  ];
  const unit = { range: [-0.02, 1.02] };
  return [data, layout(
    tone,
    axis("confidence", tone, { ...unit, anchor: "y2" }),
    axis("observed frequency", tone, { ...unit, domain: [0.24, 1] }),
    {
      yaxis2: axis("scores", tone, { domain: [0, 0.18], anchor: "x", nticks: 3 }),
      shapes: [diagonal(tone)], showlegend: false, hovermode: "closest",
    },
  )];
}

const figures = { lines: linesFigure, reliability: reliabilityFigure };

// Rows that plotly needs for the names of lines, all columns of which are as wide as the longest.
function legendRows(chart, element) {
  const longest = Math.max(...chart.lines.map((line) => brief(line.name).length));
  const columns = Math.max(1, Math.floor((element.clientWidth - 70) / (46 + 5.6 * longest)));
  return Math.ceil(chart.lines.length / columns);
}

function drawChart(id) {
  const element = document.getElementById(id);
  const chart = page.charts[id];
  if (!element || !chart) return;
  if (chart.lines?.length > 1) element.style.height = `${285 + 19 * legendRows(chart, element)}px`;
  Plotly.react(element, ...figures[chart.type](chart, colours()), config);
  element.dataset.drawn = "true";
}

const breath = () => new Promise((resolve) => { setTimeout(resolve, 0); });

// Charts are drawn from the top. After the time given, the page is usable and the rest follows.
async function drawCharts(milliseconds) {
  const start = performance.now();
  const left = Object.keys(page.charts);
  const some = async (until) => {
    while (left.length && performance.now() < until) {
      drawChart(left.shift());
      await breath();
    }
  };
  await some(start + milliseconds);
  return () => some(Infinity);
}

function redrawCharts() {
  for (const id of Object.keys(page.charts)) {
    if (document.getElementById(id)?.dataset.drawn) drawChart(id);
  }
}

function watchColours() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
  // Plots have the width of the screen; on paper they take that of their column.
  const paper = (on) => {
    for (const id of Object.keys(page.charts)) {
      const element = document.getElementById(id);
      if (!element) continue;
      if (on || element.dataset.drawn) drawChart(id);
      Plotly.relayout(element, on ? { width: 330, autosize: false } : { width: null, autosize: true });
    }
  };
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));
}
