"use strict";
// Several videos played as one. The longest keeps the time, the others are held to it.
{
  const NUDGE = 0.018; // seconds apart, from which a video runs faster or slower
  const CLOSE = 0.004; // until it is as near as this
  const FASTER = 0.1; // by so much
  const JUMP = 0.12; // and from which it is set to the time at once

  TH.Player = class {
    constructor(moved) {
      this.videos = [];
      this.speed = 1;
      this.loop = true;
      this.playing = false;
      this.frame = 0;
      this.moved = moved;
    }

    // Frames of the longest video.
    get frames() {
      return Math.max(1, ...this.videos.map((v) => v.frames));
    }

    // Of the longest the one that is heard, whose speed is then never changed; none that cannot be played.
    get master() {
      const able = this.videos.filter((v) => !v.error);
      const before = (a, b) => b.frames > a.frames || (b.frames === a.frames && a.muted && !b.muted);
      return able.reduce((a, b) => (before(a, b) ? b : a), able[0] || this.videos[0]);
    }

    // Takes elements with a number of frames; those that were there before and are not now stop.
    load(videos) {
      for (const video of this.videos) if (!videos.includes(video)) video.pause();
      this.videos = videos;
      for (const video of videos) video.playbackRate = this.speed;
      if (!videos.length) this.pause();
      else this.seek(Math.min(this.frame, this.frames - 1), this.playing);
    }

    seek(frame, keep = false) {
      if (!keep) this.pause();
      this.frame = Math.max(0, Math.min(this.frames - 1, Math.round(frame)));
      // The middle of a frame is on the same side of its edges in every browser.
      for (const video of this.videos) this._set(video, (this.frame + 0.5) / TH.FPS);
      if (keep && this.playing) for (const video of this.videos) this._start(video);
      this.moved();
    }

    step(by) {
      this.seek(this.frame + by);
    }

    play() {
      if (!this.videos.length) return;
      if (this.frame >= this.frames - 1) this.seek(0);
      this.playing = true;
      for (const video of this.videos) this._start(video);
      cancelAnimationFrame(this.timer);
      this.timer = requestAnimationFrame(() => this._tick());
      this.moved();
    }

    pause() {
      if (!this.playing) return;
      this.playing = false;
      cancelAnimationFrame(this.timer);
      for (const video of this.videos) video.pause();
      if (this.videos.length) this.seek(this.frame);
    }

    toggle() {
      if (this.playing) this.pause();
      else this.play();
    }

    setSpeed(speed) {
      this.speed = speed;
      for (const video of this.videos) video.playbackRate = speed;
    }

    _set(video, time) {
      const last = (video.frames - 0.5) / TH.FPS;
      video.currentTime = video.frames ? Math.min(time, last) : time;
    }

    _start(video) {
      video.play().catch((error) => {
        // Sound may need a gesture, which a restored page has not had: then the pictures go first.
        if (error.name !== "NotAllowedError" || video.muted) return;
        video.muted = true;
        video.play().catch(() => {});
      });
    }

    _tick() {
      if (!this.playing) return;
      const master = this.master;
      const time = master.currentTime;
      this.frame = Math.max(0, Math.min(this.frames - 1, Math.floor(time * TH.FPS + 1e-6)));
      if (master.ended || time >= this.frames / TH.FPS - 0.005) return this._end();
      for (const video of this.videos) if (video !== master) this._hold(video, time);
      this.moved();
      this.timer = requestAnimationFrame(() => this._tick());
    }

    _hold(video, time) {
      if (video.seeking || video.readyState < 2) return;
      if (time >= video.frames / TH.FPS - 0.02) {
        if (!video.paused) video.pause(); // it has ended: its last frame stays
        return;
      }
      if (video.paused) this._start(video);
      const off = video.currentTime - time;
      if (Math.abs(off) > JUMP) video.currentTime = time;
      // Browsers stumble over every change of speed, so one lasts until the video has caught up.
      const going = video.nudge || 0;
      if (going ? off * going >= -CLOSE : Math.abs(off) > NUDGE) video.nudge = going ? 0 : -Math.sign(off);
      const rate = this.speed * (1 + FASTER * (video.nudge || 0));
      if (Math.abs(video.playbackRate - rate) > 0.005) video.playbackRate = rate;
    }

    _end() {
      if (!this.loop) {
        this.frame = this.frames - 1;
        return this.pause();
      }
      for (const video of this.videos) video.currentTime = 0;
      this.frame = 0;
      this.moved();
      for (const video of this.videos) this._start(video);
      this.timer = requestAnimationFrame(() => this._tick());
    }
  };
}
