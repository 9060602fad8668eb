// Draw a mask on an image. Python keeps the mask: a stroke is sent when it ends, and the image with its mask comes back.
const TOOLS = {
  brush: "paint the object",
  eraser: "remove what is painted",
  polygon: "click the corners of the object; a double click or Enter ends, Escape cancels",
  box: "drag a box; all of it is the object",
  grabcut: "drag a box around the object; GrabCut finds the outline",
};
const COLOUR = { eraser: "#ffffffb0", other: "#ffd400b0" };

function render({ model, el }) {
  const add = (parent, tag, values = {}, style = {}) => {
    const node = parent.appendChild(document.createElement(tag));
    Object.assign(node.style, style);
    return Object.assign(node, values);
  };
  const bar = add(el, "div", {}, { display: "flex", flexWrap: "wrap", gap: "6px", alignItems: "center" });
  const look = { maxWidth: "100%", width: "960px", touchAction: "none", cursor: "crosshair", display: "block" };
  const canvas = add(el, "canvas", { className: "ttilib-draw", tabIndex: 0 }, look);
  const line = add(el, "div", { className: "ttilib-draw-text" });
  const context = canvas.getContext("2d");
  canvas.dataset.lmSuppressShortcuts = "true"; // Enter and Escape are ours, not JupyterLab's
  let tool = "brush", points = [], bitmap = null;
  const sent = []; // strokes whose result has not come back
  const [height, width] = model.get("size");

  const buttons = {};
  const button = (name, title, click) => {
    const look = { padding: "2px 10px", cursor: "pointer" };
    buttons[name] = add(bar, "button", { textContent: name, title, type: "button", onclick: click }, look);
    buttons[name].dataset.tool = name;
  };
  const select = (name) => {
    [tool, points] = [name, []];
    for (const key of Object.keys(TOOLS)) {
      buttons[key].setAttribute("aria-pressed", key === name);
      buttons[key].style.fontWeight = key === name ? "bold" : "normal";
    }
    help.textContent = TOOLS[name];
    draw();
  };
  for (const name of Object.keys(TOOLS)) button(name, TOOLS[name], () => select(name));
  button("undo", "undo the last stroke (Ctrl+Z)", () => send("undo"));
  button("clear", "remove the whole mask", () => send("clear"));
  add(bar, "span", { textContent: "width" });
  const most = Math.max(4, Math.round(Math.max(height, width) / 5));
  const value = Math.max(2, Math.round(most / 6));
  const slider = add(bar, "input", { type: "range", min: 1, max: most, value, title: "width of the brush in pixels" });
  const help = add(bar, "span", {}, { opacity: 0.7 });

  const trace = (stroke) => {
    const zoom = canvas.width / width, at = stroke.points.map(([x, y]) => [x * zoom, y * zoom]);
    const wide = stroke.tool === "brush" || stroke.tool === "eraser";
    context.strokeStyle = COLOUR[stroke.tool] || COLOUR.other;
    context.lineWidth = wide ? stroke.width * zoom : Math.max(2, canvas.width / 480);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    const [first, last] = [at[0], at[at.length - 1]];
    if (stroke.tool === "box" || stroke.tool === "grabcut") {
      context.rect(first[0], first[1], last[0] - first[0], last[1] - first[1]);
    } else {
      context.moveTo(...first);
      for (const point of [...at.slice(1), last]) context.lineTo(...point);
    }
    context.stroke();
  };
  const now = () => ({ tool, points, width: Number(slider.value) });
  const draw = () => {
    if (!bitmap) return;
    context.drawImage(bitmap, 0, 0);
    for (const stroke of [...sent, now()]) if (stroke.points.length) trace(stroke);
  };
  const send = (name) => {
    const stroke = { ...now(), tool: name || tool, points: name ? [] : points };
    sent.push(stroke);
    model.send(stroke);
    points = [];
    draw();
  };
  const show = async () => {
    bitmap = await createImageBitmap(new Blob([model.get("view")]));
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    line.textContent = model.get("text");
    draw();
  };
  const finished = () => {
    sent.shift();
    return show();
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };

  canvas.onpointerdown = (event) => {
    if (event.button !== 0) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    points = tool === "polygon" ? [...points, place(event)] : [place(event)];
    draw();
  };
  canvas.onpointermove = (event) => {
    if (tool === "polygon" || !points.length) return;
    points.push(place(event));
    draw();
  };
  canvas.onpointerup = () => tool !== "polygon" && points.length && send();
  canvas.onpointercancel = () => select(tool);
  canvas.ondblclick = () => tool === "polygon" && points.length && send();
  canvas.onkeydown = (event) => {
    if (event.key === "Enter" && tool === "polygon" && points.length) send();
    if (event.key === "Escape") select(tool);
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) send("undo");
    event.stopPropagation();
  };
  model.on("change:done", finished);
  select("brush");
  show();
  return () => model.off("change:done", finished);
}

export default { render };
