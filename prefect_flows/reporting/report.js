"use strict";
// The page is whole without this script. It adds: a filtered and sorted table of all nodes, zoom and
// search of the lineage, and a panel with the details of a node.

const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  return element;
};

// The table of all nodes.
(() => {
  const table = document.getElementById("all-nodes");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const words = document.getElementById("filter-text");
  const count = document.getElementById("filter-count");
  const heads = Array.from(table.tHead.rows[0].cells);
  const column = (title) => heads.findIndex((head) => head.textContent === title);
  // Status, stage and owner are columns; tags are an attribute of the row.
  const filters = ["Status", "Stage", "Owner", "Tag"].map((title) => {
    const at = column(title);
    const values = (row) =>
      title === "Tag"
        ? (row.dataset.tags || "").split("\u001f")
        : [row.cells[at].textContent.replace(/, resumed$/, "")];
    const select = document.getElementById(`filter-${title.toLowerCase()}`);
    const known = new Set(rows.flatMap(values).filter(Boolean));
    [...known].sort().forEach((value) => select.append(make("option", value)));
    select.parentElement.hidden = known.size === 0;
    select.addEventListener("change", () => filter());
    return (row) => !select.value || values(row).includes(select.value);
  });
  const texts = rows.map((row) => row.textContent.toLowerCase());
  let waiting = 0;
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits =
        filters.every((accepts) => accepts(row)) && wanted.every((word) => texts[i].includes(word));
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    count.textContent = `${shown} of ${rows.length} nodes shown`;
  };
  words.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  const value = (row, at) => {
    const text = row.cells[at].textContent;
    const number = parseFloat(text.replace(/,/g, ""));
    return row.cells[at].className === "n" ? (isNaN(number) ? -1 : number) : text;
  };
  heads.forEach((head, at) => {
    const button = make("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = head.className === "n";
      const before = head.getAttribute("aria-sort");
      const up = before ? before !== "ascending" : !numeric;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = rows.map((row) => [value(row, at), row]);
      keyed.sort(([a], [b]) => (numeric ? a - b : a.localeCompare(b)) * (up ? 1 : -1));
      body.append(...keyed.map(([, row]) => row));
    });
  });
  document.getElementById("tools").hidden = false;
})();

// The lineage: zoom, search, and the first failure in sight.
(() => {
  const picture = document.getElementById("lineage-picture");
  if (!picture) return;
  const svg = picture.querySelector("svg");
  svg.setAttribute("role", "group"); // its boxes are buttons
  const [width, height] = [svg.width.baseVal.value, svg.height.baseVal.value];
  let scale = 1;
  const zoom = (to) => {
    scale = Math.min(Math.max(to, 0.1), 3);
    const middle = [
      (picture.scrollLeft + picture.clientWidth / 2) / picture.scrollWidth,
      (picture.scrollTop + picture.clientHeight / 2) / picture.scrollHeight,
    ];
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    picture.scrollLeft = middle[0] * picture.scrollWidth - picture.clientWidth / 2;
    picture.scrollTop = middle[1] * picture.scrollHeight - picture.clientHeight / 2;
  };
  const show = (box) => {
    const [inner, outer] = [box.getBoundingClientRect(), picture.getBoundingClientRect()];
    picture.scrollLeft += inner.left - outer.left - (picture.clientWidth - inner.width) / 2;
    picture.scrollTop += inner.top - outer.top - (picture.clientHeight - inner.height) / 2;
  };
  const boxes = Array.from(svg.querySelectorAll("g"));
  const search = document.getElementById("lineage-search");
  const count = document.getElementById("lineage-count");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    const found = boxes.filter((box) => {
      const fits = wanted && box.querySelector("title").textContent.toLowerCase().includes(wanted);
      box.classList.toggle("is-found", Boolean(fits));
      return fits;
    });
    svg.classList.toggle("is-searched", found.length > 0);
    count.textContent = wanted ? `${found.length} of ${boxes.length} boxes` : "";
    if (found.length) show(found[0]);
  });
  const actions = {
    in: () => zoom(scale * 1.25),
    out: () => zoom(scale / 1.25),
    fit: () => zoom(Math.min(picture.clientWidth / width, picture.clientHeight / height, 1)),
    full: () => zoom(1),
  };
  document.querySelectorAll("[data-zoom]").forEach((button) => {
    button.addEventListener("click", actions[button.dataset.zoom]);
  });
  picture.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(scale * (event.deltaY < 0 ? 1.1 : 1 / 1.1));
    },
    { passive: false },
  );
  document.getElementById("lineage-tools").hidden = false;
  // A box that failed, or else one with a failed test.
  const start = svg.querySelector("rect.box.is-failed") || svg.querySelector("g rect.failed");
  if (start) show(start.parentElement);
})();

// The panel of a node.
(() => {
  const packed = document.getElementById("details");
  const panel = document.getElementById("panel");
  if (!packed || !panel || !window.DecompressionStream) return;
  const body = document.getElementById("panel-body");
  let loading = null;
  const load = () => {
    loading ??= (async () => {
      const bytes = Uint8Array.from(atob(packed.textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return JSON.parse(await new Response(stream).text());
    })();
    return loading;
  };
  const list = (title, items) => {
    if (!items.length) return [];
    const entries = make("ul");
    items.forEach((item) => {
      const entry = make("li");
      entry.append(...item);
      entries.append(entry);
    });
    return [make("h3", title), entries];
  };
  const block = (title, text) =>
    text ? [make("h3", title), make("pre", text, { tabindex: "0" })] : [];
  const link = (all, id) => {
    const button = make("button", all[id] ? all[id].name : id, { type: "button", class: "node" });
    button.addEventListener("click", () => open(id));
    return button;
  };
  const nodes = (all, title, ids) =>
    list(
      title,
      ids.map((id) => [link(all, id), ` ${all[id].type}${all[id].status ? `, ${all[id].status}` : ""}`]),
    );
  const bars = (node) => {
    // The last bar is this run.
    const seconds = [...node.durations, ...(node.seconds ? [node.seconds] : [])];
    if (node.durations.length === 0) return [];
    const most = Math.max(...seconds, 0.01);
    const ns = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(ns, "svg");
    const words = seconds.map((each) => `${each} s`).join(", ");
    Object.entries({
      viewBox: `0 0 ${seconds.length * 14} 40`, width: seconds.length * 14, height: 40,
      role: "img", "aria-label": words, class: "bars",
    }).forEach(([name, value]) => svg.setAttribute(name, value));
    seconds.forEach((each, i) => {
      const bar = document.createElementNS(ns, "rect");
      const high = Math.max((each / most) * 40, 1);
      Object.entries({ x: i * 14, y: 40 - high, width: 11, height: high }).forEach(
        ([name, value]) => bar.setAttribute(name, value),
      );
      svg.append(bar);
    });
    return [make("h3", `Seconds in the last ${seconds.length} runs`), svg, make("p", words, { class: "soft" })];
  };
  const columns = (node) => {
    if (!node.columns.length) return [];
    const table = make("table");
    const head = table.createTHead().insertRow();
    // Types and origins are there if YAML declares them, and if the models were checked.
    const titles = ["Column", "Type", "Description", "Comes from"];
    const shown = titles.map((_, i) => i === 0 || node.columns.some((column) => column[i]));
    titles.filter((_, i) => shown[i]).forEach((t) => head.append(make("th", t, { scope: "col" })));
    const rows = table.createTBody();
    node.columns.forEach(([name, ...others]) => {
      const row = rows.insertRow();
      row.append(make("th", name, { scope: "row" }));
      others.filter((_, i) => shown[i + 1]).forEach((text) => row.append(make("td", text)));
    });
    const scroll = make("div", null, {
      class: "scroll", tabindex: "0", role: "region", "aria-label": "Columns",
    });
    scroll.append(table);
    return [make("h3", "Columns"), scroll];
  };
  const facts = (node) => {
    const shown = make("dl", null, { class: "facts" });
    Object.entries({
      Status: node.status, Stage: node.stage, Seconds: node.seconds, Rows: node.rows,
      Because: node.because, File: node.path, Relation: node.relation, Owner: node.owner,
      Group: node.group, Tags: (node.tags || []).join(", "),
    }).forEach(([term, value]) => {
      if (value !== undefined && value !== "")
        shown.append(make("dt", term), make("dd", typeof value === "number" ? value.toLocaleString("en") : value));
    });
    return shown;
  };
  const open = async (id) => {
    const all = await load();
    const node = all[id];
    if (!node) return;
    document.getElementById("panel-title").textContent = `${node.type} ${node.name}`;
    body.replaceChildren(
      facts(node),
      ...block("Reproduce", node.command),
      ...block("Log", node.log.join("\n")),
      ...nodes(all, "Blocks", node.blocks),
      ...list("Tests", node.tests.map(([test, status]) => [link(all, test), ` ${status}`])),
      ...nodes(all, "Reads", node.reads),
      ...nodes(all, "Is read by", node.feeds),
      ...bars(node),
      ...columns(node),
      ...block("Compiled SQL", node.sql),
    );
    if (!panel.open) panel.showModal();
    body.scrollTop = 0;
  };
  document.getElementById("panel-close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => {
    if (event.target === panel) panel.close(); // beside the panel
  });
  document.querySelectorAll("[data-node]").forEach((place) => {
    const id = place.dataset.node;
    if (place.namespaceURI === "http://www.w3.org/2000/svg") {
      place.setAttribute("tabindex", "0");
      place.setAttribute("role", "button");
      place.addEventListener("click", () => open(id));
      place.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open(id);
      });
    } else {
      const button = make("button", place.textContent, { type: "button", class: "node" });
      button.addEventListener("click", () => open(id));
      place.replaceChildren(button);
    }
  });
})();
