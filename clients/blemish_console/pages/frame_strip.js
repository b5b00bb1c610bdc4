// SPDX-License-Identifier: Apache-2.0
// One element for a page of frames: a widget for each frame took a browser half a second to draw. The next
// page changes the places of the frames, but never shows an old image in them.
export default {
  template: `
    <div class="bl-strip">
      <div v-for="(frame, place) in frames" :key="place" class="bl-thumb bl-thumb-choice"
           :class="{ 'bl-thumb-here': frame.id === here }">
        <button type="button" class="bl-thumb-button" :aria-current="frame.id === here"
                @click="$emit('open', frame.id)">
          <img :key="frame.id" class="bl-thumb-image" loading="lazy" decoding="async" :src="frame.source" :alt="frame.title">
        </button>
        <div class="bl-thumb-state">
          <input type="checkbox" class="bl-thumb-box" :aria-label="frame.title" :checked="selected.includes(frame.id)"
                 @change="$emit('choose', { id: frame.id, chosen: $event.target.checked })">
          <span class="bl-chip" :class="'bl-chip-' + frame.tone">
            <i class="q-icon notranslate material-icons" aria-hidden="true">{{ frame.icon }}</i>
            <div>{{ frame.word }}</div>
          </span>
        </div>
      </div>
    </div>`,
  props: { frames: Array, here: String, selected: Array },
  emits: ["open", "choose"],
};
