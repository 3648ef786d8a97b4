"use strict";
// The same clip by every row, beside the original, with one set of controls.
{
  const { el, button, icon, ICONS } = TH;
  const SPEEDS = ["0.25", "0.5", "1"];
  let parts = null;

  const player = (TH.player = new TH.Player(() => parts && parts.moved()));

  function clipOf(table) {
    const clips = table.gallery.clips;
    return clips.find((clip) => clip.id === TH.state.clip) || clips[0];
  }

  function seedsOf(clip) {
    return [...new Set(clip.videos.map(([, seed]) => seed))].sort((a, b) => a - b);
  }

  // Values of a row on the clip that is shown, or undefined.
  TH.clipValues = (table, row) => {
    const clip = clipOf(table);
    const found = clip && (clip.values.find(([at]) => at === row) || [])[1];
    return found && (found.find((one) => one.seed === TH.state.seed) || found[0]);
  };

  TH.drawGallery = (table) => {
    const part = TH.by("watch-part");
    player.load([]);
    parts = null;
    part.replaceChildren();
    const { clips, missing, of } = table.gallery;
    const curves = table.curves.length > 0;
    part.hidden = !clips.length && !missing.length && !curves;
    if (part.hidden) return;
    const title = clips.length ? "Side by side" : curves ? "Over time" : "Side by side";
    part.append(el("h2", { id: "watch-title", text: title }));
    part.append(TH.chips(table));
    if (clips.length) part.append(...gallery(table));
    part.append(el("div", { id: "curves" }));
    if (missing.length) part.append(missed(clips, missing));
    if (clips.length < of)
      part.append(el("p", { class: "hint", text: `${clips.length} of ${of} clips are on this page; --clips ${of} takes all.` }));
    TH.drawCurves(table);
    if (clips.length) show(table);
  };

  function missed(clips, missing) {
    const lines = el("ul", {}, missing.map((text) => el("li", { text })));
    if (clips.length)
      return el("details", { class: "notes" }, el("summary", { text: `${missing.length} not here` }), lines);
    const how = "No videos on this page. thbench eval STRATEGY or thbench score writes results that know where their videos lie; then thbench leaderboard --html takes them along.";
    const which = el("details", { class: "notes" }, el("summary", { text: "Which, and why" }), lines);
    return el("div", { class: "empty" }, el("p", { text: how }), which);
  }

  function gallery(table) {
    const clip = clipOf(table);
    TH.state.clip = clip.id;
    const tiles = el("div", { id: "tiles" });
    const more = [table.gallery.clips.length > 1 ? ", [ and ] change the clip" : "", table.curves.length ? " A click on a curve goes there." : ""];
    const text = `Keys: space plays, comma and full stop go a frame back and on${more[0]}.${more[1]}`;
    const keys = el("p", { class: "hint keys", text });
    return [choices(table), tiles, transport(), keys];
  }

  function choices(table) {
    const clips = table.gallery.clips;
    const metrics = [...new Set(clips.flatMap((c) => c.values.flatMap(([, s]) => s.flatMap((v) => Object.keys(v.metrics)))))];
    const named = (id) => { TH.state.clip = id; TH.state.seed = null; TH.drawGallery(table); };
    const line = el("div", { class: "controls" });
    if (clips.length > 1) line.append(TH.select("Clip", clips.map((c) => [c.id, c.id]), TH.state.clip, named, "clip"));
    const seeds = seedsOf(clipOf(table));
    if (!seeds.includes(TH.state.seed)) TH.state.seed = seeds.length ? seeds[0] : 0;
    const seeded = (seed) => { TH.state.seed = Number(seed); show(table); TH.drawCurves(table); };
    if (seeds.length > 1) line.append(TH.select("Seed", seeds.map((s) => [String(s), String(s)]), String(TH.state.seed), seeded, "seed"));
    if (metrics.length) {
      const ordered = table.columns.map((c) => c.name).filter((name) => metrics.includes(name));
      if (!ordered.includes(TH.state.metric)) TH.state.metric = ordered[0];
      const valued = (name) => { TH.state.metric = name; show(table); };
      const headings = new Map(table.columns.map((c) => [c.name, c.heading]));
      line.append(TH.select("Shown below", ordered.map((n) => [n, headings.get(n)]), TH.state.metric, valued, "metric"));
    }
    return line;
  }

  function transport() {
    const range = el("input", { type: "range", id: "scrub", min: 0, max: 0, step: 1, value: 0, "aria-label": "Frame",
      on: { input: () => player.seek(Number(range.value)) } });
    const play = button("", () => player.toggle(), { id: "play", class: "big" });
    const where = el("output", { id: "where", for: "scrub" });
    const speed = TH.select("Speed", SPEEDS.map((s) => [s, `${s}×`]), String(player.speed), (s) => player.setSpeed(Number(s)), "speed");
    const loop = el("input", { type: "checkbox", id: "loop", checked: player.loop, on: { change: () => (player.loop = loop.checked) } });
    parts = { moved: () => moved(range, play, where) };
    return el("div", { class: "transport", role: "group", "aria-label": "Playing" },
      button(icon(ICONS.back), () => player.step(-1), { id: "back", "aria-label": "One frame back", title: "One frame back ( , or ← )" }),
      play,
      button(icon(ICONS.next), () => player.step(1), { id: "next", "aria-label": "One frame on", title: "One frame on ( . or → )" }),
      range, where, speed, el("label", {}, loop, " Loop"));
  }

  let shownPlaying = null;
  function moved(range, play, where) {
    const last = String(player.frames - 1);
    if (range.max !== last) range.max = last;
    range.value = player.frame;
    range.setAttribute("aria-valuetext", `frame ${player.frame + 1} of ${player.frames}`);
    where.textContent = `${player.frame + 1} / ${player.frames} · ${(player.frame / TH.FPS).toFixed(2)} s`;
    if (shownPlaying !== player.playing || !play.childElementCount) {
      shownPlaying = player.playing;
      play.replaceChildren(icon(player.playing ? ICONS.pause : ICONS.play));
      play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
      play.title = player.playing ? "Pause (space)" : "Play (space)";
    }
    for (const video of player.videos) video.tile.classList.toggle("over", video.frames > 0 && player.frame >= video.frames);
    TH.moveCurves(player.frame);
  }

  // Draws the tiles anew; videos that were there before stay the same elements.
  function show(table) {
    const tiles = TH.by("tiles"), clip = clipOf(table), before = new Map();
    for (const video of player.videos) before.set(video.key, video);
    const wanted = [];
    if (clip.original) wanted.push([null, ...clip.original]);
    for (const [row, seed, file, frames] of clip.videos)
      if (seed === TH.state.seed && TH.state.rows.has(row)) wanted.push([row, file, frames]);
    const videos = wanted.map(([row, file, frames]) => {
      const key = `${row} ${file}`;
      const video = before.get(key) || el("video", { src: file, preload: "auto", playsinline: true, disablepictureinpicture: true });
      video.muted = true;
      Object.assign(video, { key, frames, row });
      video.onerror = () => video.tile.classList.add("broken");
      video.onloadedmetadata = () => {
        if (!video.frames) video.frames = Math.floor(video.duration * TH.FPS + 0.02);
        if (!player.playing) player.seek(player.frame);
      };
      return video;
    });
    tiles.replaceChildren(...videos.map((video) => tile(table, video)));
    if (!videos.some((v) => v.key === TH.state.sound)) TH.state.sound = videos.length ? videos[0].key : null;
    listen();
    player.load(videos);
  }
  TH.showTiles = show;

  function tile(table, video) {
    const row = video.row === null ? null : table.rows[video.row];
    const name = row ? row.title : "Original";
    video.setAttribute("aria-label", name);
    const sound = button("", () => { TH.state.sound = video.key; listen(); }, { class: "sound" });
    const head = row
      ? button(name, () => TH.about(table, row), { class: "name", title: "Where this row comes from" })
      : el("span", { class: "name", text: name });
    video.sound = sound;
    video.onclick = () => player.toggle();
    video.tile = el("figure", { class: `tile ${row ? TH.colour(row) : "truth"}` },
      el("div", { class: "frame" }, video, el("span", { class: "ended", text: "ended" }), el("span", { class: "fault", text: "cannot be played here" })),
      el("figcaption", {}, head, sound), value(table, row ? video.row : table.rows.findIndex((r) => r.strategy === "ground-truth")));
    return video.tile;
  }

  function value(table, row) {
    const found = row < 0 ? null : TH.clipValues(table, row); // the original's own, where that is a row
    const text = found && found.metrics[TH.state.metric];
    return el("p", { class: "value", text: text ? text[1] : "" });
  }

  function listen() {
    for (const video of TH.by("tiles").querySelectorAll("video")) {
      const on = video.key === TH.state.sound;
      video.muted = !on;
      video.sound.replaceChildren(icon(on ? ICONS.sound : ICONS.mute));
      video.sound.setAttribute("aria-pressed", String(on));
      video.sound.setAttribute("aria-label", `Sound of ${video.getAttribute("aria-label")}`);
      video.sound.title = on ? "Its sound is heard" : "Hear this one";
    }
  }

  TH.nextClip = (table, by) => {
    const clips = table.gallery.clips;
    if (clips.length < 2) return;
    const at = clips.indexOf(clipOf(table));
    TH.state.clip = clips[(at + by + clips.length) % clips.length].id;
    TH.state.seed = null;
    TH.drawGallery(table);
  };
}
