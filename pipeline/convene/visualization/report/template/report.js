(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), colours = read("colours");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paperWidth = 690; // pixels between the margins of A4 and of Letter
  const touch = matchMedia("(pointer: coarse)").matches;

  // Figures name roles instead of colours; a role stands for one colour in a light page, another in a dark one.
  const coloured = (value, palette) => {
    if (typeof value === "string") return (value.startsWith("@") && palette[value.slice(1)]) || value;
    if (Array.isArray(value)) return value.map((item) => coloured(item, palette));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, palette)]));
  };
  const axis = { gridcolor: "@line", linecolor: "@line", zeroline: false, tickcolor: "@line", automargin: true };
  const titled = (own) => own.title && { title: { ...own.title, font: { size: 12.5 }, standoff: 8 } };
  const laidOut = (own, width) => {
    const layout = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "@muted" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      hoverlabel: { bgcolor: "@panel", bordercolor: "@line", font: { color: "@ink" } },
      // A finger scrolls the page; a mouse draws a part to look at.
      dragmode: touch ? false : "zoom",
      ...own, width,
    };
    layout.margin = { l: 52, r: 14, t: 34, b: 40, ...own.margin };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      layout[name] = { ...axis, ...layout[name], ...titled(layout[name]) };
    }
    return layout;
  };
  const draw = (palette, width) => {
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById(name);
      const options = { responsive: true, displayModeBar: false };
      // On paper a pair stands one beside the other, as on a wide screen.
      const share = width && place.closest(".pair") ? width / 2 - 16 : width;
      Plotly.react(place, coloured(figure.data, palette), coloured(laidOut(figure.layout, share), palette), options);
    }
  };
  const onScreen = () => draw(dark.matches ? colours.dark : colours.light);

  try {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    onScreen();
    dark.addEventListener("change", onScreen);
    addEventListener("beforeprint", () => draw(colours.light, paperWidth));
    addEventListener("afterprint", onScreen);
  } catch (error) {
    for (const place of document.querySelectorAll(".chart")) place.textContent = `This chart cannot be drawn: ${error.message}`;
  }
  document.documentElement.dataset.drawn = Math.round(performance.now()); // for who waits for the charts
})();
