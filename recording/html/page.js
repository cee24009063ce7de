// The slider, its panels and the curves. recording/page.py, comparison(), describes the data.
const data = JSON.parse(document.getElementById("data").textContent), single = data.runs.length === 1
const [slider, view, at] = ["step", "view", "at"].map(id => document.getElementById(id))
const color = index => `hsl(${330 + 137.5 * index} 60% 50%)`
const [left, right, top_, bottom] = [52, 448, 10, 166] // of a curve's axes
const x = step => left + (right - left) * step / (data.last || 1)

function add(tag, parent, properties) {
  return document.getElementById(parent)?.appendChild(Object.assign(document.createElement(tag), properties))
}

// A panel for each run and each kind of picture that it has recorded.
const panels = data.runs.flatMap(run => data.names.filter(([name]) => run.pictures[name]).map(([name, title]) => {
  const figure = add("figure", "panels", { className: name }), image = new Image()
  const caption = document.createElement("figcaption")
  figure.append(caption, image)
  return { name, figure, caption, image, text: image.alt = single ? title : run.label, run, steps: run.pictures[name] }
}))

function show() {
  const step = data.steps[slider.value]
  at.textContent = "step " + step
  for (const { name, figure, caption, image, text, run, steps } of panels) {
    figure.hidden = view.value !== "" && view.value !== name
    const nearest = steps.filter(other => other <= step).pop() ?? steps[0]
    caption.textContent = text + (nearest === step ? "" : ` (step ${nearest})`)
    if (!figure.hidden) image.src = `${run.home}/${name}/step_${String(nearest).padStart(6, "0")}.png`
  }
  for (const line of document.querySelectorAll(".now")) line.setAttribute("transform", `translate(${x(step)})`)
}

// A quantity over the steps: of each run, points [step, min, mean, max] over its particles.
function curve(name, title) {
  const runs = data.runs.map(run => run.curves[name] ?? [])
  const values = runs.flat().flatMap(p => single ? p.slice(1) : p[2]), high = Math.max(...values)
  const least = Math.min(...values)
  const low = least >= 0 && least < high / 2 || least === high ? Math.min(0, least) : least, span = high - low || 1
  const line = (points, k) => points.map(p => `${x(p[0])},${bottom - (bottom - top_) * (p[k] - low) / span}`).join(" ")
  const tick = part => `<g transform="translate(0 ${bottom + (top_ - bottom) * part})"><path d="M${left} 0H${right}"/>
    <text x="${left - 6}" y="4" text-anchor="end">${+(low + span * part).toPrecision(3)}</text></g>`
  const band = single ? `<polygon points="${line(runs[0], 3)} ${line([...runs[0]].reverse(), 1)}"/>` : ""
  add("figure", "curves", { innerHTML: `<figcaption></figcaption><svg viewBox="0 0 460 190" role="img">` +
    [0, 0.5, 1].map(tick).join("") + `<text x="${left}" y="184">0</text>` +
    `<text x="${right}" y="184" text-anchor="end">step ${data.last}</text><g fill="${color(0)}">${band}</g>` +
    runs.map((points, i) => `<polyline points="${line(points, 2)}" stroke="${color(i)}"/>`).join("") +
    `<path class="now" d="M0 ${top_}V${bottom}"/></svg>` }).firstChild.textContent = title
}

data.curves.forEach(([name, title]) => curve(name, title))
if (single) view.add(new Option("all pictures", ""))
else data.runs.forEach((run, i) => { add("span", "legend", { textContent: `— ${run.label} ` }).style.color = color(i) })
for (const [name, title] of data.names) view.add(new Option(title, name))
// After a reload, show what was chosen; without a choice, the last step.
const [step, name] = location.hash.slice(1).split("/"), place = step ? data.steps.indexOf(+step) : -1
slider.max = data.steps.length - 1
slider.value = place < 0 ? slider.max : place
if (data.names.some(([other]) => other === name)) view.value = name
document.querySelector(".bar").addEventListener("input", () => {
  show()
  location.replace(`#${slider.value === slider.max ? "" : data.steps[slider.value]}/${view.value}`)
})
show()
