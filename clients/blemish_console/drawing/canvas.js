// SPDX-License-Identifier: Apache-2.0
// An image to draw on, by mouse, pen and touch. It keeps the shapes that it shows; the server receives each step
// (draw, undo, clear) in the same order, and computes the pixels.
const LONGEST_PX = 2048; // longer side of the canvas, which limits its memory
const CLOSE_PX = 12; // distance on the screen at which a click closes a polygon
const CLICK_PX = 4; // movement on the screen up to which a box is a click
const MAX_POINTS = 1500;
const MAX_ZOOM = 40;

export default {
  template: `
    <div ref="view" class="bl-draw" :class="'bl-draw-' + tool" tabindex="0" role="application" :aria-label="label"
      @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="cancel" @pointerleave="away"
      @wheel.prevent="wheel" @dblclick.prevent="close" @contextmenu.prevent @keydown="key" @focusout="blur">
      <img ref="img" :src="source" draggable="false" alt="" :style="place" @load="$emit('shown')" />
      <canvas ref="canvas" :style="place"></canvas>
      <svg class="bl-draw-draft">
        <path v-if="draft.length > 1" :d="draftPath" class="bl-draw-line"/>
        <circle v-for="(point, at) in corners" :cx="point[0]" :cy="point[1]" :r="at ? 3 : 6" class="bl-draw-corner"/>
        <circle v-if="cursor && tool === 'brush'" :cx="cursor[0]" :cy="cursor[1]" :r="Math.max(radius * scale, 1)"
          class="bl-draw-cursor"/>
      </svg>
    </div>
  `,
  props: {
    src: String,
    width: Number,
    height: Number,
    base: String,
    settings: Object,
    label: String,
    layers: Array,
  },
  data() {
    return {
      source: undefined,
      scale: 1,
      left: 0,
      top: 0,
      isFitted: true,
      tool: this.settings.tool,
      radius: this.settings.radius,
      layer: this.settings.layer,
      erases: this.settings.erases,
      draft: [],
      hover: null,
      cursor: null,
    };
  },
  created() {
    // Not shown by the template, so not watched.
    this.steps = this.settings.steps.map((step) => step);
    this.pointers = new Map();
    this.isBusy = false;
    this.hand = null;
    this.pen = null;
    this.finished = {}; // pictures of the finished shapes by layer
  },
  mounted() {
    setTimeout(() => {
      this.source = (this.src.startsWith("/") ? window.path_prefix : "") + this.src;
    }, 0);
    const reduce = Math.min(1, LONGEST_PX / Math.max(this.width, this.height));
    this.$refs.canvas.width = Math.max(1, Math.round(this.width * reduce));
    this.$refs.canvas.height = Math.max(1, Math.round(this.height * reduce));
    this.sizes = new ResizeObserver(() => (this.isFitted ? this.fit() : this.settle()));
    this.sizes.observe(this.$refs.view);
    this.warn = (event) => {
      if (this.settings.asks && this.steps.length) event.preventDefault();
    };
    window.addEventListener("beforeunload", this.warn);
    this.keyOutside = (event) => {
      // Keys also work after a click on a tool, or before one on the image.
      const at = document.activeElement;
      if (at === document.body || at?.closest(".bl-draw-bar")) this.key(event, ["z", "Delete"]);
    };
    window.addEventListener("keydown", this.keyOutside);
    if (this.base) {
      this.mask = new Image();
      this.mask.onload = () => this.changed();
      this.mask.src = this.base;
    }
    this.fit();
    this.paint();
  },
  unmounted() {
    this.sizes.disconnect();
    window.removeEventListener("beforeunload", this.warn);
    window.removeEventListener("keydown", this.keyOutside);
  },
  computed: {
    place() {
      return {
        left: `${this.left}px`,
        top: `${this.top}px`,
        width: `${this.width * this.scale}px`,
        height: `${this.height * this.scale}px`,
        imageRendering: this.scale >= 4 ? "pixelated" : "auto",
      };
    },
    outline() {
      const points = this.hover && this.tool === "polygon" ? [...this.draft, this.hover] : this.draft;
      if (this.tool === "box" && points.length === 2) {
        const [[x, y], [right, bottom]] = points;
        return [[x, y], [right, y], [right, bottom], [x, bottom]];
      }
      return points;
    },
    draftPath() {
      if (this.tool === "brush") return "";
      const ends = this.outline.map((point) => this.onScreen(point).join(" "));
      return `M${ends.join("L")}${this.tool === "box" ? "Z" : ""}`;
    },
    corners() {
      return this.tool === "polygon" ? this.draft.map((point) => this.onScreen(point)) : [];
    },
  },
  methods: {
    // Called by the server and by buttons of the page
    configure(settings) {
      if ("tool" in settings && settings.tool !== this.tool) {
        this.close();
        this.draft = [];
      }
      for (const name of ["tool", "radius", "layer", "erases"]) {
        if (name in settings) this[name] = settings[name];
      }
      this.paint();
    },
    undo() {
      if (this.draft.length) {
        this.draft.pop();
        return;
      }
      if (!this.steps.length) return;
      this.steps.pop();
      this.changed();
      this.$emit("undo");
    },
    clear() {
      this.draft = [];
      if (!this.isDrawn()) return;
      this.steps.push(null);
      this.changed();
      this.$emit("clear");
    },
    settled() {
      this.steps = [];
      this.changed();
    },
    zoom(factor) {
      const view = this.$refs.view;
      this.zoomAt(factor, view.clientWidth / 2, view.clientHeight / 2);
    },
    fit() {
      const view = this.$refs.view;
      if (!view || !view.clientWidth) return;
      this.scale = Math.min(view.clientWidth / this.width, view.clientHeight / this.height);
      this.isFitted = true;
      this.settle();
    },

    // Places
    zoomAt(factor, x, y) {
      const view = this.$refs.view;
      const fitting = Math.min(view.clientWidth / this.width, view.clientHeight / this.height);
      const scale = Math.min(Math.max(this.scale * factor, fitting), Math.max(MAX_ZOOM, fitting));
      this.left = x - ((x - this.left) / this.scale) * scale;
      this.top = y - ((y - this.top) / this.scale) * scale;
      this.scale = scale;
      this.isFitted = scale <= fitting * 1.001;
      this.settle();
    },
    settle() {
      // Keep the image in view, and centre a side that is shorter than the view.
      const view = this.$refs.view;
      const keep = (at, length, room) =>
        length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, at));
      this.left = keep(this.left, this.width * this.scale, view.clientWidth);
      this.top = keep(this.top, this.height * this.scale, view.clientHeight);
    },
    inImage(event) {
      const [x, y] = this.inView(event);
      return [(x - this.left) / this.scale, (y - this.top) / this.scale];
    },
    inside([x, y]) {
      return [Math.min(Math.max(x, 0), this.width), Math.min(Math.max(y, 0), this.height)];
    },
    inView(event) {
      const frame = this.$refs.view.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    },
    onScreen([x, y]) {
      return [this.left + x * this.scale, this.top + y * this.scale];
    },

    // Pointers
    down(event) {
      if (event.pointerType === "touch" && this.pen !== null) return; // the hand that holds the pen
      if (event.pointerType === "pen") this.pen = event.pointerId;
      this.$refs.view.focus({ preventScroll: true });
      this.$refs.view.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.inView(event));
      if (this.pointers.size > 1) {
        // Two fingers zoom and move; what the first one began is dropped.
        if (this.tool !== "polygon") this.draft = [];
        this.isBusy = false;
        this.hand = "two";
        this.paint();
        return;
      }
      if (this.tool === "move" || event.button === 1 || event.button === 2) {
        this.hand = "one";
        return;
      }
      if (event.button !== 0) return;
      this.hand = null;
      this.isBusy = true;
      this.began = this.inView(event);
      const point = this.inImage(event);
      if (this.tool === "polygon") return;
      this.draft = this.tool === "box" ? [this.inside(point), this.inside(point)] : [point];
      if (this.tool === "brush") this.paint();
    },
    move(event) {
      const at = this.inView(event);
      this.cursor = event.pointerType === "touch" ? null : at;
      const before = this.pointers.get(event.pointerId);
      if (before) this.pointers.set(event.pointerId, at);
      if (before && this.hand === "one") {
        this.shift(at[0] - before[0], at[1] - before[1]);
      } else if (before && this.hand === "two") {
        this.pinch(event.pointerId, before, at);
      } else if (this.isBusy && this.tool === "box") {
        this.draft = [this.draft[0], this.inside(this.inImage(event))];
      } else if (this.isBusy && this.tool === "brush") {
        const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
        for (const each of events.length ? events : [event]) this.stroke(this.inImage(each));
        this.paint();
      } else if (this.tool === "polygon" && this.draft.length) {
        this.hover = event.pointerType === "touch" ? null : this.inside(this.inImage(event));
      }
    },
    stroke(point) {
      const last = this.draft[this.draft.length - 1];
      const least = Math.max(0.5, this.radius / 6, 0.5 / this.scale);
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) < least) return;
      this.draft.push(point);
      if (this.draft.length >= MAX_POINTS) {
        this.finish();
        this.draft = [point];
      }
    },
    up(event) {
      if (event.pointerId === this.pen) this.pen = null;
      if (!this.pointers.has(event.pointerId)) return;
      const wasOne = this.pointers.size === 1;
      this.pointers.delete(event.pointerId);
      if (!wasOne) return;
      this.hand = null;
      if (!this.isBusy) return;
      this.isBusy = false;
      if (this.tool === "polygon") {
        this.corner(this.inside(this.inImage(event)), this.inView(event));
        return;
      }
      if (this.tool === "box") {
        const [x, y] = this.inView(event);
        const isClick = Math.min(Math.abs(x - this.began[0]), Math.abs(y - this.began[1])) < CLICK_PX;
        if (isClick) this.draft = [];
      }
      if (this.draft.length) this.finish();
    },
    cancel(event) {
      if (event.pointerId === this.pen) this.pen = null;
      this.pointers.delete(event.pointerId);
      if (this.tool !== "polygon") this.draft = [];
      this.isBusy = false;
      if (!this.pointers.size) this.hand = null;
      this.paint();
    },
    away() {
      this.cursor = null;
      this.hover = null;
    },
    corner(point, at) {
      if (this.draft.length >= 3) {
        const [x, y] = this.onScreen(this.draft[0]);
        if (Math.hypot(at[0] - x, at[1] - y) <= CLOSE_PX) {
          this.close();
          return;
        }
      }
      const last = this.draft[this.draft.length - 1];
      if (last && Math.hypot(point[0] - last[0], point[1] - last[1]) * this.scale < 3) return;
      if (this.draft.length < MAX_POINTS) this.draft.push(point);
    },
    close() {
      if (this.tool === "polygon" && this.draft.length >= 3) this.finish();
    },
    finish() {
      const shape = {
        tool: this.tool,
        layer: this.layer,
        radius: this.tool === "brush" ? this.radius : 0,
        erases: this.erases,
        replaces: Boolean(this.settings.single) && this.tool === "box",
        points: this.draft.map(([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100]),
      };
      this.draft = [];
      this.hover = null;
      this.steps.push(shape);
      this.changed();
      this.$emit("draw", shape);
    },
    shift(x, y) {
      this.left += x;
      this.top += y;
      this.settle();
    },
    pinch(id, before, at) {
      const other = [...this.pointers].find(([each]) => each !== id);
      if (!other) return;
      const apart = (point) => Math.hypot(point[0] - other[1][0], point[1] - other[1][1]) || 1;
      const middle = [(at[0] + other[1][0]) / 2, (at[1] + other[1][1]) / 2];
      this.shift((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
      this.zoomAt(apart(at) / apart(before), middle[0], middle[1]);
    },
    wheel(event) {
      const [x, y] = this.inView(event);
      this.zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), x, y);
    },
    blur(event) {
      // A polygon is complete once the person turns to something other than the tools.
      if (!event.relatedTarget?.closest(".bl-draw-bar")) this.close();
    },
    key(event, only) {
      if (only && !only.includes(event.key)) return;
      const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
      const actions = {
        Escape: () => (this.draft = []),
        Enter: () => this.close(),
        Backspace: () => (this.draft.length ? this.undo() : this.clear()),
        Delete: () => (this.draft.length ? this.undo() : this.clear()),
        "+": () => this.zoom(1.25),
        "-": () => this.zoom(0.8),
        0: () => this.fit(),
        ArrowLeft: () => this.shift(40, 0),
        ArrowRight: () => this.shift(-40, 0),
        ArrowUp: () => this.shift(0, 40),
        ArrowDown: () => this.shift(0, -40),
      };
      const act = isUndo ? () => this.undo() : event.ctrlKey || event.metaKey ? null : actions[event.key];
      if (!act) return;
      event.preventDefault();
      event.stopPropagation();
      act();
    },

    // Pictures
    begin() {
      return this.steps.findLastIndex((step) => step === null || step.replaces);
    },
    shown() {
      return this.steps.slice(Math.max(this.begin(), 0)).filter((step) => step !== null);
    },
    hasBase() {
      return Boolean(this.mask && this.mask.complete) && this.begin() < 0;
    },
    isDrawn() {
      return this.shown().length > 0 || this.hasBase();
    },
    changed() {
      this.finished = {};
      this.paint();
    },
    paint() {
      const canvas = this.$refs.canvas;
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, canvas.width, canvas.height);
      const draft =
        this.isBusy && this.tool === "brush" && this.draft.length
          ? { tool: "brush", layer: this.layer, radius: this.radius, erases: this.erases, points: this.draft }
          : null;
      for (const layer of [...this.layers].reverse()) {
        const own = draft && draft.layer === layer ? draft : null;
        this.finished[layer] ||= this.finishedPicture(layer);
        if (!own && !this.finished[layer].isUsed) continue;
        const picture = this.layerPicture(this.finished[layer].picture, own, layer);
        if (layer === "part") {
          // What is not selected is dimmed, so that the part itself stays as it is.
          pen.fillStyle = "#000000a6";
          pen.fillRect(0, 0, canvas.width, canvas.height);
          pen.globalCompositeOperation = "destination-out";
        }
        pen.drawImage(picture, 0, 0);
        pen.globalCompositeOperation = "source-over";
      }
    },
    sheet() {
      const sheet = document.createElement("canvas");
      sheet.width = this.$refs.canvas.width;
      sheet.height = this.$refs.canvas.height;
      return sheet;
    },
    finishedPicture(layer) {
      const picture = this.sheet();
      const hasBase = layer === "defect" && this.hasBase();
      const shapes = this.shown().filter((shape) => shape.layer === layer);
      const pen = picture.getContext("2d");
      if (hasBase) pen.drawImage(this.mask, 0, 0, picture.width, picture.height);
      this.drawShapes(pen, shapes);
      return { picture, isUsed: hasBase || shapes.length > 0 };
    },
    layerPicture(finished, draft, layer) {
      this.coloured ||= this.sheet();
      const sheet = this.coloured;
      const pen = sheet.getContext("2d");
      pen.globalCompositeOperation = "copy";
      pen.drawImage(finished, 0, 0);
      if (draft) this.drawShapes(pen, [draft]);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = this.colour(pen, layer);
      pen.fillRect(0, 0, sheet.width, sheet.height);
      return sheet;
    },
    drawShapes(pen, shapes) {
      pen.save();
      pen.scale(this.$refs.canvas.width / this.width, this.$refs.canvas.height / this.height);
      pen.lineCap = pen.lineJoin = "round";
      for (const shape of shapes) this.drawShape(pen, shape);
      pen.restore();
    },
    drawShape(pen, shape) {
      pen.globalCompositeOperation = shape.erases ? "destination-out" : "source-over";
      pen.beginPath();
      const [first, ...others] = shape.points;
      if (shape.tool === "box") {
        const [[x, y], [right, bottom]] = shape.points;
        pen.rect(x, y, right - x, bottom - y);
        pen.fill();
        return;
      }
      pen.moveTo(...first);
      for (const point of others) pen.lineTo(...point);
      if (shape.tool === "polygon") {
        pen.fill("evenodd");
        return;
      }
      if (!others.length) pen.lineTo(...first);
      pen.lineWidth = 2 * shape.radius;
      pen.stroke();
    },
    colour(pen, layer) {
      const plain = { defect: "#e69f00a6", inspect: "#56b4e973", part: "#000000" }[layer];
      if (plain) return plain;
      // Hatching tells ignored parts apart without a colour.
      const tile = document.createElement("canvas");
      const side = Math.max(8, Math.round(this.$refs.canvas.width / 64));
      tile.width = tile.height = side;
      const hatch = tile.getContext("2d");
      hatch.fillStyle = "#14181dbf";
      hatch.fillRect(0, 0, side, side);
      hatch.strokeStyle = "#f0e442cc";
      hatch.lineWidth = side / 8;
      for (const at of [-side, 0, side]) {
        hatch.moveTo(at, side);
        hatch.lineTo(at + side, 0);
      }
      hatch.stroke();
      return pen.createPattern(tile, "repeat");
    },
  },
};
