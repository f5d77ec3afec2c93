// Each plot: its image gives way to an interactive figure once plotly.js, packed in this file, has drawn it.
"use strict";
(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);

  const touch = matchMedia("(pointer: coarse)").matches; // a finger on a plot scrolls the page
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const config = {
    responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d"],
  };
  const drawn = [];

  const layoutOf = (layout, small) => {
    const text = getComputedStyle(document.body).color;
    const line = text.replace("rgb", "rgba").replace(")", ", 0.2)");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: text, ticks: "outside", automargin: true };
    return {
      ...layout,
      font: { family: "system-ui, sans-serif", size: small ? 10 : 12, color: text },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: { ...layout.xaxis, ...axis, ...(narrow && layout.xaxis.ticktext ? { tickangle: -60 } : {}) },
      yaxis: { ...layout.yaxis, ...axis },
      ...(layout.yaxis2 ? { yaxis2: { ...layout.yaxis2, ...axis } } : {}),
      margin: { l: 10, r: 10, t: 30, b: 10 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: text },
      dragmode: touch ? false : "zoom",
    };
  };
  const number = (value) => (value === null ? NaN : value); // of an error: null would be drawn as zero
  const traceOf = (trace) => {
    const error = trace.error_y;
    if (!error) return trace;
    const color = error.color ?? getComputedStyle(document.body).color;
    const [array, arrayminus] = [error.array.map(number), error.arrayminus.map(number)];
    return { ...trace, error_y: { ...error, color, array, arrayminus } };
  };
  for (const figure of document.querySelectorAll("figure.plot")) {
    figure.closest(".plots")?.classList.add("drawn"); // its place has a size from now on
    await new Promise((then) => setTimeout(then)); // the page scrolls while many are drawn
    const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
    const place = document.createElement("div");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", figure.querySelector("figcaption").textContent);
    figure.append(place);
    const small = !narrow && figure.closest(".plots") !== null;
    await Plotly.newPlot(place, data.map(traceOf), layoutOf(layout, small), config);
    figure.classList.add("drawn");
    drawn.push([place, data, layout, small]);
  }
  dark.addEventListener("change", () => {
    for (const [place, data, layout, small] of drawn) {
      Plotly.react(place, data.map(traceOf), layoutOf(layout, small), config);
    }
  });
})();
