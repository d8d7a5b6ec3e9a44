(function () {
  "use strict";
  var base = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "var:ink" },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    hoverlabel: { bgcolor: "var:sheet", bordercolor: "var:rule", font: { color: "var:ink", size: 13 } }
  };
  // A touch that starts on a figure should scroll the page: only a mouse zooms by dragging.
  base.dragmode = window.matchMedia("(hover: hover)").matches ? "zoom" : false;
  var config = { responsive: true, displayModeBar: false, scrollZoom: false };
  function painted(value, style) {
    if (typeof value === "string") { return value.slice(0, 4) === "var:" ? style.getPropertyValue("--" + value.slice(4)).trim() : value; }
    if (Array.isArray(value)) { return value.map(function (item) { return painted(item, style); }); }
    if (value && typeof value === "object") {
      var copy = {};
      Object.keys(value).forEach(function (key) { copy[key] = painted(value[key], style); });
      return copy;
    }
    return value;
  }
  function draw(holder) {
    var figure = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
    var layout = Object.assign({}, base, figure.layout);
    Object.keys(layout).forEach(function (key) {
      if (/^[xy]axis/.test(key)) {
        layout[key] = Object.assign({ gridcolor: "var:grid", linecolor: "var:rule", tickcolor: "var:rule", fixedrange: false }, layout[key]);
      }
    });
    var hidden = holder.dataset.hidden ? holder.dataset.hidden.split(",") : [];
    figure.data.forEach(function (trace) { if (hidden.indexOf(trace.legendgroup) >= 0) { trace.visible = false; } });
    var style = getComputedStyle(document.documentElement);
    Plotly.react(holder, painted(figure.data, style), painted(layout, style), config);
  }
  var holders = Array.prototype.slice.call(document.querySelectorAll(".plot"));
  // A figure in a panel that is not shown has no width yet: it is drawn when its turn comes.
  function shown(holder) { return !holder.closest(".panel[hidden]"); }
  holders.filter(shown).forEach(draw);
  document.querySelectorAll(".switch input").forEach(function (input) {
    input.addEventListener("change", function () {
      document.getElementsByName(input.name).forEach(function (other) {
        var panel = document.getElementById(other.value);
        panel.hidden = !other.checked;
        if (other.checked) { panel.querySelectorAll(".plot").forEach(draw); }
      });
    });
  });
  document.querySelectorAll(".legend button").forEach(function (button) {
    button.addEventListener("click", function () {
      var holder = document.getElementById(button.dataset.plot);
      var on = button.getAttribute("aria-pressed") === "true";
      var hidden = (holder.dataset.hidden || "").split(",").filter(function (name) { return name && name !== button.dataset.group; });
      if (on) { hidden.push(button.dataset.group); }
      holder.dataset.hidden = hidden.join(",");
      button.setAttribute("aria-pressed", String(!on));
      draw(holder);
    });
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { holders.filter(shown).forEach(draw); });
})();
