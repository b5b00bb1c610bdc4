// SPDX-License-Identifier: Apache-2.0
// Takes files and folders, asks the console for their places, and sends them in batches. It goes on while the
// socket of the page reconnects. All texts come from texts.py, and names are never interpreted as HTML.

const RETRIES_MS = [1000, 3000, 9000];
const ENDING = new Set([400, 401, 403, 404]);

export default {
  template: `
    <div class="bl-upload" :class="{ 'bl-upload-over': over }">
      <div v-if="state === 'idle'" class="bl-upload-row">
        <q-icon name="upload" size="24px" />
        <span class="bl-upload-lead">{{ words.drop }}</span>
        <q-btn flat dense no-caps color="primary" icon="add_photo_alternate" :label="words.files"
          @click="$refs.files.click()" />
        <q-btn flat dense no-caps color="primary" icon="create_new_folder" :label="words.folder"
          @click="$refs.folder.click()" />
      </div>
      <input ref="files" type="file" multiple hidden @change="takeInput" />
      <input ref="folder" type="file" webkitdirectory hidden @change="takeInput" />
      <div v-if="state === 'idle' && note" class="bl-upload-note" role="status">
        <span>{{ note }}</span>
        <q-btn flat dense no-caps :label="words.close" @click="forget" />
      </div>
      <div v-if="state === 'reading'" class="bl-upload-row"><q-spinner size="22px" />
        <span class="bl-upload-lead">{{ words.reading }}</span>
        <q-btn flat dense no-caps :label="words.cancel" @click="reset" /></div>
      <div v-if="state === 'chosen'" class="bl-upload-column">
        <div class="bl-upload-row">
          <span class="bl-upload-lead">{{ fill(words.found, { files: count(files.length), size: size(totalChosen) }) }}</span>
        </div>
        <div class="bl-upload-row">
          <q-select outlined dense options-dense emit-value map-options :options="choices" v-model="target"
            :label="words.class" class="bl-upload-class" @update:model-value="plan" />
          <q-input v-if="target === 'new'" outlined dense debounce="400" v-model="newClass" :label="words.class_name"
            @update:model-value="plan" />
          <q-toggle v-model="replace" :label="words.replace" />
          <q-toggle v-if="target === '' && asksDefective" v-model="onlyDefective" :label="words.only_defective"
            @update:model-value="plan" />
        </div>
        <div v-if="problem" class="bl-problem" role="alert">{{ problem }}</div>
        <div v-if="summary" class="bl-faint">{{ summary }}</div>
        <div class="bl-upload-row">
          <q-space />
          <q-btn flat no-caps :label="words.cancel" @click="reset" />
          <q-btn unelevated no-caps color="primary" icon="upload" :disable="!queue.length"
            :label="queue.length === 1 ? words.start_one : fill(words.start, { count: count(queue.length) })"
            @click="start" />
        </div>
      </div>
      <div v-if="state === 'sending' || state === 'paused' || state === 'ended'" class="bl-upload-column" role="status">
        <div class="bl-upload-row">
          <span class="bl-upload-lead">{{ headline }}</span>
          <span v-if="state === 'sending'" class="bl-faint bl-number">{{ rate }}</span>
          <q-btn v-if="state === 'sending'" flat dense no-caps icon="close" :label="words.cancel" @click="cancel" />
          <q-btn v-if="state === 'paused'" unelevated dense no-caps color="primary" icon="play_arrow"
            :label="words.go_on" @click="send" />
          <q-btn v-if="state !== 'sending'" flat dense no-caps :label="words.close" @click="reset" />
        </div>
        <q-linear-progress v-if="state !== 'ended'" :value="share" size="8px" rounded />
        <div v-if="problem" class="bl-problem" role="alert">{{ problem }}</div>
      </div>
      <div v-if="leftOut.length || expected" class="bl-upload-list">
        <div class="bl-title">{{ words.left_out }}</div>
        <div class="bl-upload-rows"><table class="bl-table"><tbody>
          <tr v-for="each in leftOut"><td>{{ each[0] }}</td><td>{{ each[1] }}</td></tr>
        </tbody></table></div>
        <div v-if="more" class="bl-faint">{{ fill(words.left_out_more, { count: count(more) }) }}</div>
        <div v-if="expected" class="bl-faint">{{ fill(words.not_images, { count: count(expected) }) }}</div>
      </div>
    </div>`,
  props: { dataset: String, base: String, folders: Array, here: String, words: Object, limits: Object },
  data() {
    return { ...this.fresh(), over: false, note: "" };
  },
  computed: {
    choices() {
      return [
        { value: "", label: this.words.as_named }, ...this.folders, { value: "new", label: this.words.new_class },
      ];
    },
    share() {
      return this.totalBytes ? Math.min(1, (this.sentBytes + this.flying) / this.totalBytes) : 0;
    },
    rate() {
      const sent = this.sentBytes + this.flying, parts = [
        this.fill(this.words.bytes, { done: this.size(sent), total: this.size(this.totalBytes) }),
      ];
      const spent = (Date.now() - this.startedAt) / 1000;
      if (this.retrying) parts.push(this.words.retry);
      else if (spent > 2 && sent > 0) {
        const left = Math.round((spent * (this.totalBytes - sent)) / sent);
        parts.push(this.fill(this.words.left, { time: left < 90 ? `${left} s` : `${Math.round(left / 60)} min` }));
      }
      return parts.join(" · ");
    },
    more() {
      return this.leftOutCount - this.leftOut.length;
    },
  },
  created() {
    this.key = `blemish-upload:${this.base}:${this.dataset}`;
  },
  mounted() {
    try {
      const noted = JSON.parse(localStorage.getItem(this.key) || "null");
      if (noted) this.note = this.fill(this.words.interrupted, {
        time: new Date(noted.at).toLocaleString(), done: this.count(noted.done), total: this.count(noted.total),
      });
    } catch { /* the browser keeps nothing */ }
    this.on = { dragover: this.dragOver, dragleave: this.dragLeave, drop: this.drop, beforeunload: this.leave };
    for (const [name, handle] of Object.entries(this.on)) window.addEventListener(name, handle);
  },
  unmounted() {
    for (const [name, handle] of Object.entries(this.on)) window.removeEventListener(name, handle);
    if (this.state === "sending") this.stop();
  },
  methods: {
    fresh() {
      this.run = (this.run || 0) + 1; // ends what an earlier run awaits
      this.taken = []; // File objects, which stay out of Vue's proxies
      return {
        state: "idle", files: [], target: "", newClass: "", replace: false, onlyDefective: false, asksDefective: false, problem: "",
        summary: "", queue: [], leftOut: [], leftOutCount: 0, expected: 0, headline: "", totalBytes: 0, sentBytes: 0,
        flying: 0, totalChosen: 0, startedAt: 0, retrying: false,
        counts: { stored: 0, unchanged: 0, replaced: 0 }, at: 0,
      };
    },
    reset() {
      Object.assign(this, this.fresh());
    },
    fill(text, values) {
      return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
    },
    count(number) {
      return number.toLocaleString("en-US");
    },
    size(bytes) {
      for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
        if (bytes >= scale) return `${(bytes / scale).toFixed(1)} ${unit}`;
      return `${bytes} B`;
    },
    // Choosing
    isBusy() {
      return !["idle", "ended"].includes(this.state);
    },
    hasFiles(event) {
      return [...(event.dataTransfer?.types || [])].includes("Files");
    },
    dragOver(event) {
      if (!this.hasFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = this.isBusy() ? "none" : "copy";
      this.over = !this.isBusy();
    },
    dragLeave(event) {
      if (!event.relatedTarget) this.over = false;
    },
    async drop(event) {
      if (!this.hasFiles(event)) return;
      event.preventDefault();
      this.over = false;
      if (this.isBusy()) return;
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      if (!entries.length) {
        const files = [...event.dataTransfer.files];
        this.reset();
        if (files.length) await this.take(files.map((file) => [file.name, file]), false);
        return;
      }
      this.reset();
      this.state = "reading";
      const run = this.run, found = [];
      try {
        // The only folder is the folder of the dataset, so its own name is no part of the paths.
        const roots = entries.length === 1 && entries[0].isDirectory ? await this.list(entries[0]) : entries;
        for (const entry of roots) await this.walk(entry, "", found, run);
        if (run === this.run) await this.take(found, entries.some((entry) => entry.isDirectory));
      } catch (error) {
        if (run === this.run) {
          this.reset();
          this.state = "chosen";
          this.problem = String(error.message || error);
        }
      }
    },
    async list(directory) {
      const reader = directory.createReader(), all = [];
      for (;;) {
        const part = await new Promise((done, fail) => reader.readEntries(done, fail));
        if (!part.length) return all;
        all.push(...part);
      }
    },
    async walk(entry, above, found, run) {
      if (run !== this.run) return;
      const path = above + entry.name;
      if (entry.isDirectory) {
        for (const each of await this.list(entry)) await this.walk(each, `${path}/`, found, run);
        return;
      }
      if (found.length >= this.limits.files)
        throw new Error(this.fill(this.words.too_many, { count: this.count(this.limits.files) }));
      found.push([path, await new Promise((done, fail) => entry.file(done, fail))]);
    },
    async takeInput(event) {
      const chosen = [...event.target.files];
      event.target.value = "";
      if (!chosen.length || this.isBusy()) return;
      this.reset();
      const isFolder = chosen.some((file) => file.webkitRelativePath);
      const below = (file) => file.webkitRelativePath.split("/").slice(1).join("/") || file.name;
      await this.take(chosen.map((file) => [below(file), file]), isFolder);
    },
    async take(found, isFolder) {
      this.forget();
      this.taken = found.map(([, file]) => file);
      this.files = found.map(([path, file]) => [path, file.size]);
      this.totalChosen = found.reduce((sum, [, file]) => sum + file.size, 0);
      this.target = isFolder ? "" : this.here;
      this.state = "chosen";
      await this.plan();
    },
    async plan() {
      const run = ++this.run, folder = this.target === "new" ? `test/${this.newClass.trim()}` : this.target;
      Object.assign(this, { problem: "", summary: "", queue: [], leftOut: [], leftOutCount: 0, expected: 0 });
      if (this.target === "new" && !this.newClass.trim()) return;
      let contents = [];
      for (let round = 0; round < 5; round++) {
        const description = {
          dataset: this.dataset, folder, only_defective: this.onlyDefective, files: this.files,
          contents: contents.map((number) => this.files[number]),
        };
        let answer;
        try {
          answer = await this.post("/data/upload/plan", description, contents.map((number) => this.taken[number]), run);
        } catch (error) {
          if (run === this.run) {
            this.problem = error.message;
            this.asksDefective ||= !!error.answer?.only_defective;
          }
          return;
        }
        if (run !== this.run) return;
        if (answer.needed.length) {
          contents = [...new Set([...contents, ...answer.needed])];
          continue;
        }
        this.show(answer);
        return;
      }
    },
    show(answer) {
      this.queue = answer.files;
      this.leftOut = answer.left_out.filter((each) => !each[2]);
      this.expected = answer.expected_count;
      this.leftOutCount = answer.left_out_count - answer.expected_count;
      const classes = new Map();
      for (const [, path] of answer.files) {
        const folder = path.split("/").slice(0, 2).join("/");
        classes.set(folder, (classes.get(folder) || 0) + 1);
      }
      this.summary = [...classes].map(([folder, number]) => `${folder} ${this.count(number)}`).join(" · ");
      if (!this.queue.length) this.problem = this.words.nothing;
    },
    // Sending
    async start() {
      this.totalBytes = this.queue.reduce((sum, [number]) => sum + this.taken[number].size, 0);
      this.startedAt = Date.now();
      this.summary = "";
      await this.send();
    },
    async send() {
      const run = ++this.run;
      Object.assign(this, { state: "sending", problem: "", flying: 0, retrying: false });
      while (this.at < this.queue.length) {
        this.remember();
        this.headline = this.fill(this.words.progress, {
          done: this.count(this.at), total: this.count(this.queue.length),
        });
        const batch = this.nextBatch();
        const bytes = batch.reduce((sum, [number]) => sum + this.taken[number].size, 0);
        if (!(await this.sendBatch(batch, run))) return;
        this.at += batch.length;
        this.sentBytes += bytes;
        this.flying = 0;
      }
      this.forget();
      this.state = "ended";
      this.headline = this.fill(this.words.done, {
        ...Object.fromEntries(Object.entries(this.counts).map(([name, number]) => [name, this.count(number)])),
        left_out: this.count(this.leftOutCount),
      });
      this.tell();
    },
    nextBatch() {
      const batch = [];
      let bytes = 0;
      for (const each of this.queue.slice(this.at, this.at + this.limits.batchFiles)) {
        bytes += this.taken[each[0]].size;
        if (batch.length && bytes > this.limits.batchBytes) break;
        batch.push(each);
      }
      return batch;
    },
    async sendBatch(batch, run) {
      let files = batch;
      for (let attempt = 0; files.length; ) {
        const description = {
          dataset: this.dataset, replace: this.replace,
          files: files.map(([number, path, original]) => [path, original, this.taken[number].size]),
        };
        try {
          const contents = files.map(([number]) => this.taken[number]);
          const answer = await this.post("/data/upload", description, contents, run, true);
          if (run !== this.run) return false;
          for (const name of Object.keys(this.counts)) this.counts[name] += answer[name];
          for (const each of answer.left_out) this.leave_out(each[0], each[1]);
          this.retrying = false;
          return true;
        } catch (error) {
          if (run !== this.run) return false;
          const readable = await this.readable(files);
          if (run !== this.run) return false;
          if (readable.length < files.length) {
            files = readable;
            continue;
          }
          this.flying = 0;
          if (ENDING.has(error.status)) return this.pause("ended", this.words.failed, error.message);
          if (attempt === RETRIES_MS.length) return this.pause("paused", this.words.paused, error.message);
          this.retrying = true;
          await new Promise((done) => setTimeout(done, RETRIES_MS[attempt++]));
          if (run !== this.run) return false;
        }
      }
      return true;
    },
    async readable(files) {
      const found = [];
      for (const each of files) {
        try {
          await this.taken[each[0]].slice(0, 1).arrayBuffer();
          found.push(each);
        } catch {
          this.leave_out(this.files[each[0]][0], this.words.unreadable);
        }
      }
      return found;
    },
    leave_out(path, reason) {
      this.leftOutCount += 1;
      if (this.leftOut.length < this.limits.listed) this.leftOut.push([path, reason]);
    },
    pause(state, text, problem) {
      this.state = state;
      this.problem = problem;
      this.headline = this.fill(text, { done: this.count(this.kept()), total: this.count(this.queue.length) });
      this.tell();
      return false;
    },
    kept() {
      return Object.values(this.counts).reduce((sum, number) => sum + number, 0);
    },
    stop() {
      this.run += 1;
      this.request?.abort();
    },
    cancel() {
      this.stop();
      this.forget();
      this.pause("ended", this.words.cancelled, "");
    },
    tell() {
      if (this.kept()) this.$emit("stored");
    },
    post(path, description, contents, run, isShown = false) {
      const head = new Blob([JSON.stringify(description)]);
      const request = new XMLHttpRequest();
      this.request = request;
      return new Promise((done, fail) => {
        const refuse = (status, message) =>
          fail(Object.assign(new Error(message), { status, answer: request.response }));
        request.open("POST", `${this.base}${path}?description=${head.size}`);
        request.responseType = "json";
        if (isShown)
          request.upload.onprogress = (event) => {
            if (run === this.run) this.flying = Math.max(0, event.loaded - head.size);
          };
        request.onload = () => {
          if (request.status === 200 && request.response) done(request.response);
          else refuse(request.status, request.response?.error || this.words.network);
        };
        request.onerror = () => refuse(0, this.words.network);
        request.onabort = request.onerror;
        request.send(new Blob([head, ...contents]));
      });
    },
    // A note in the browser for an upload whose page was closed
    remember() {
      try {
        const note = { done: this.kept(), total: this.queue.length, at: this.startedAt };
        localStorage.setItem(this.key, JSON.stringify(note));
      } catch { /* the browser keeps nothing */ }
    },
    forget() {
      this.note = "";
      try {
        localStorage.removeItem(this.key);
      } catch { /* the browser keeps nothing */ }
    },
    leave(event) {
      if (this.state === "sending") event.preventDefault();
    },
  },
};
