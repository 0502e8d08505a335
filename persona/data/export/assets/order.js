// Of the viewer: expressions, and the order of drawing, which a worker finds while the avatar moves.
"use strict";

// Unposed means with expressions; says whether they have changed. This and the next function use
// nothing from outside: the worker has their text.
function raiser({ means, rows, dirs }, expressions) {
  const raised = means.slice();
  let last = expressions.map(() => 0);
  const raise = (weights) => {
    if (weights.every((weight, e) => weight === last[e])) return false;
    last = weights.slice();
    raised.set(means);
    weights.forEach((weight, e) => {
      if (!weight) return;
      const [start, count] = expressions[e].rows;
      for (let i = start; i < start + count; i++)
        for (let k = 0; k < 3; k++) raised[3 * rows[i] + k] += weight * dirs[3 * i + k];
    });
    return true;
  };
  return { raised, raise };
}

// Far to near, by counting. A bone's share of a depth is linear in the unposed place, so that four
// numbers of each bone do.
function sorter({ skin, joints }, raised, count) {
  const BINS = 1 << 16, depth = new Float32Array(count), bin = new Uint16Array(count), heads = new Uint32Array(BINS + 1);
  return (bones, forward, order) => {
    const lines = new Float32Array(bones.length / 3);
    for (let i = 0; i < lines.length; i++) {
      const b = 12 * (i >> 2) + (i & 3);
      lines[i] = forward[0] * bones[b] + forward[1] * bones[b + 4] + forward[2] * bones[b + 8];
    }
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < count; i++) {
      const x = raised[3 * i], y = raised[3 * i + 1], z = raised[3 * i + 2];
      let d = 0;
      for (let k = 4 * i; k < 4 * i + 4; k++) {
        const w = skin[k];
        if (!w) continue;
        const b = 4 * joints[k];
        d += w * (lines[b] * x + lines[b + 1] * y + lines[b + 2] * z + lines[b + 3]);
      }
      depth[i] = d;
      if (d < low) low = d;
      if (d > high) high = d;
    }
    heads.fill(0);
    const factor = (BINS - 1) / Math.max(high - low, 1e-9);
    for (let i = 0; i < count; i++) {
      bin[i] = (high - depth[i]) * factor;  // Rounded down as it is stored.
      heads[bin[i] + 1]++;
    }
    for (let i = 0; i < BINS; i++) heads[i + 1] += heads[i];
    for (let i = 0; i < count; i++) order[heads[bin[i]]++] = i;
  };
}

// A sorter on another thread: at most one order is under way; ``take`` gets each. Null where the
// browser gives no thread to a file.
function background(data, take) {
  const { means, rows, dirs, skin, joints } = data, given = { means, rows, dirs, skin, joints };
  const text = `${raiser}\n${sorter}\nlet sort, made;\nonmessage = ({ data: asked }) => {
    if (asked.given) { made = raiser(asked.given, asked.expressions); sort = sorter(asked.given, made.raised, asked.count); return; }
    const began = performance.now();
    made.raise(asked.weights);
    sort(asked.bones, asked.forward, asked.order);
    postMessage({ order: asked.order, ms: performance.now() - began }, [asked.order.buffer]);
  };`;
  let worker, spare = new Uint32Array(WIDTH * Math.ceil(meta.count / WIDTH));  // A texture's rows.
  try { worker = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" }))); } catch { return null; }
  worker.postMessage({ given, expressions: meta.expressions, count: meta.count });
  worker.onmessage = ({ data: done }) => { spare = take(done); };
  let lost = false;  // A page's policy may refuse the thread, or it may fail: then this one sorts.
  worker.onerror = worker.onmessageerror = () => { lost = true; worker.terminate(); };
  return (bones, weights, forward) => {
    if (lost) return false;
    if (!spare) return true;
    worker.postMessage({ bones, weights, forward, order: spare }, [spare.buffer]);
    spare = null;
    return true;
  };
}
