const [left, right, top_, bottom] = [52, 448, 10, 166]
const colors = ["#b8366d", "#2f7fc1", "#3a9a5b", "#c9821a", "#7a55c7", "#159a9a", "#a0522d", "#7d8794"]

// One quantity over the steps, as an SVG figure: a line for each run, the mean over its particles. A point of a run is
// [step, min, mean, max]. A single run also gets a band from min to max.
function curve(title, runs, last) {
  const every = runs.flat(), band = runs.length === 1, high = Math.max(...every.map(p => p[band ? 3 : 2]))
  let low = Math.min(...every.map(p => p[band ? 1 : 2]))
  if (low >= 0 && low < high / 2 || low === high) low = Math.min(0, low)
  const span = high - low || 1
  const x = step => left + (right - left) * step / (last || 1), y = value => bottom - (bottom - top_) * (value - low) / span
  const line = (k, points) => points.map(p => x(p[0]).toFixed(1) + "," + y(p[k]).toFixed(1)).join(" ")
  const ticks = [top_, (top_ + bottom) / 2, bottom].map(at =>
    `<line class="axis" x1="${left}" x2="${right}" y1="${at}" y2="${at}"/><text x="${left - 6}" y="${at + 4}" ` +
    `text-anchor="end">${+(low + span * (bottom - at) / (bottom - top_)).toPrecision(3)}</text>`).join("")
  const figure = document.createElement("figure"), caption = document.createElement("figcaption")
  caption.textContent = title
  figure.append(caption)
  figure.insertAdjacentHTML("beforeend", `<svg viewBox="0 0 460 190" role="img">${ticks}` +
    `<text x="${left}" y="184">0</text><text x="${right}" y="184" text-anchor="end">step ${last}</text>` +
    (band ? `<polygon class="band" points="${line(3, runs[0])} ${line(1, [...runs[0]].reverse())}"/>` : "") +
    runs.map((points, i) => `<polyline class="line" points="${line(2, points)}"` +
      (band ? "" : ` style="stroke: ${colors[i % colors.length]}"`) + "/>").join("") + `<line class="now" y1="${top_}" y2="${bottom}"/></svg>`)
  return figure
}

// Marks the current step with a line in every curve.
function mark(step, last) {
  for (const line of document.querySelectorAll("svg .now"))
    for (const end of ["x1", "x2"]) line.setAttribute(end, left + (right - left) * step / (last || 1))
}
