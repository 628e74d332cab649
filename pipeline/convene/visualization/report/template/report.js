(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), colours = read("colours");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paperWidth = 690; // pixels that fit between the margins of A4 and Letter
  const touch = matchMedia("(pointer: coarse)").matches;

  // Figures contain roles instead of colours; the palette of the colour scheme maps roles to colours.
  const applyPalette = (value, palette) => {
    if (typeof value === "string") return (value.startsWith("@") && palette[value.slice(1)]) || value;
    if (Array.isArray(value)) return value.map((item) => applyPalette(item, palette));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, applyPalette(item, palette)]));
  };
  const axis = { gridcolor: "@line", linecolor: "@line", zeroline: false, tickcolor: "@line", automargin: true };
  const axisTitle = (options) => options.title && { title: { ...options.title, font: { size: 12.5 }, standoff: 8 } };
  const completeLayout = (own, width) => {
    const layout = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "@muted" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      hoverlabel: { bgcolor: "@panel", bordercolor: "@line", font: { color: "@ink" } },
      // Touch scrolls the page; a mouse selects an area to zoom into.
      dragmode: touch ? false : "zoom",
      ...own, width,
    };
    layout.margin = { l: 52, r: 14, t: 34, b: 40, ...own.margin };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      layout[name] = { ...axis, ...layout[name], ...axisTitle(layout[name]) };
    }
    return layout;
  };
  const draw = (palette, width) => {
    for (const [name, figure] of Object.entries(figures)) {
      const element = document.getElementById(name);
      const options = { responsive: true, displayModeBar: false };
      // In print, paired charts are side by side, as on a wide screen.
      const chartWidth = width && element.closest(".pair") ? width / 2 - 16 : width;
      Plotly.react(element, applyPalette(figure.data, palette), applyPalette(completeLayout(figure.layout, chartWidth), palette), options);
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
    for (const element of document.querySelectorAll(".chart")) element.textContent = `This chart cannot be drawn: ${error.message}`;
  }
  document.documentElement.dataset.drawn = Math.round(performance.now()); // milliseconds; tests wait for this attribute
})();
