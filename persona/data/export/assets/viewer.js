// The viewer of an exported avatar: skinned and drawn by WebGL 2, sorted by a worker.
// The image model is that of persona/modules/render: 3D Gaussian splatting with the 2D filter of
// Mip-Splatting (variance EPS, opacity compensated), its light that of persona/modules/avatar. World: metres, y up, a person faces +z.
"use strict";

const EPS = 0.1, GAMMA = 2.2, LEAST_LIGHT = 0.02, FOV = 28 * Math.PI / 180, WIDTH = 2048, BORDER = 1024;
const UNITS = { means: 0, shapes: 1, turns: 2, colors: 3, skin: 4, bones: 5, joints: 6, order: 7, places: 8, forms: 9, normals: 10 };
const meta = JSON.parse(document.getElementById("meta").textContent);
const options = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const canvas = document.querySelector("canvas");
const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true });
const byId = (name) => document.getElementById(name);

// Where each Gaussian lies in the picture is found once a frame, as texels: (centre, reach) and (conic,
// opacity and light), in the bits of integers, which every WebGL 2 can draw into.
const EVERY_TEXEL = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0, 1); }`;

const PROJECT = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D; precision highp usampler2D;
uniform sampler2D means, shapes, turns, colors, skin, bones, normals;
uniform usampler2D joints;
uniform mat3 view; uniform vec3 eye; uniform vec2 size; uniform float focal; uniform bool round_ones; uniform float light[9];
layout(location = 0) out uvec4 place;
layout(location = 1) out uvec4 form;

mat3 rotation(vec4 q) {  // (x, y, z, w), columns
  vec3 v = q.xyz;
  mat3 cross_v = mat3(0, v.z, -v.y, -v.z, 0, v.x, v.y, -v.x, 0);
  return mat3(1.0) + 2.0 * q.w * cross_v + 2.0 * cross_v * cross_v;
}

mat4x3 blended(ivec2 at) {  // the bones' blend
  uvec4 joint = texelFetch(joints, at, 0);
  vec4 weight = texelFetch(skin, at, 0);
  mat4x3 sum = mat4x3(0);
  for (int k = 0; k < 4; k++) {
    if (weight[k] == 0.0) continue;
    for (int column = 0; column < 4; column++)
      sum[column] += weight[k] * texelFetch(bones, ivec2(column, int(joint[k])), 0).xyz;
  }
  return sum;
}

mat3 orthogonal(vec3 x, vec3 y) {
  x = normalize(x);
  y = normalize(y - dot(x, y) * x);
  return mat3(x, y, cross(x, y));
}

float lit(vec3 n) {  // As persona/modules/avatar/light.py.
  vec3 square = n * n;
  float sum = light[0] + light[1] * n.x + light[2] * n.y + light[3] * n.z + light[4] * n.x * n.y + light[5] * n.y * n.z
    + light[6] * (3.0 * square.z - 1.0) + light[7] * n.x * n.z + light[8] * (square.x - square.y);
  return pow(max(sum, ${LEAST_LIGHT}) / max(light[0], ${LEAST_LIGHT}), 1.0 / ${GAMMA});
}

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  mat4x3 bone = blended(at);
  vec3 p = view * (bone * vec4(texelFetch(means, at, 0).xyz, 1) - eye);
  place = form = uvec4(0);  // Not drawn.
  if (p.z < 0.01) return;
  vec3 scale = texelFetch(shapes, at, 0).xyz;
  mat3 axes = round_ones ? mat3(1.0) : view * orthogonal(bone[0], bone[1]) * rotation(texelFetch(turns, at, 0));
  mat3 spread = mat3(axes[0] * scale.x, axes[1] * scale.y, axes[2] * scale.z);
  vec2 slope = p.xy / p.z;
  vec3 row_x = focal / p.z * vec3(1, 0, -slope.x), row_y = focal / p.z * vec3(0, 1, -slope.y);
  vec3 u = row_x * spread, v = row_y * spread;
  vec3 cov = vec3(dot(u, u), dot(u, v), dot(v, v));
  float thin = max(cov.x * cov.z - cov.y * cov.y, 0.0);
  cov.xz += ${EPS};
  float det = cov.x * cov.z - cov.y * cov.y;
  float opacity = texelFetch(colors, at, 0).a * sqrt(thin / det);
  if (opacity < 1.0 / 255.0) return;
  vec2 reach = sqrt(2.0 * log(255.0 * opacity)) * sqrt(cov.xz) + 0.01;
  place = floatBitsToUint(vec4(focal * slope + 0.5 * size, reach));
  float shade = ${meta.light ? "lit(orthogonal(bone[0], bone[1]) * normalize(texelFetch(normals, at, 0).xyz * 2.0 - 1.0))" : "1.0"};
  form = uvec4(floatBitsToUint(vec3(cov.z, -cov.y, cov.x) / det), packHalf2x16(vec2(opacity, shade)));
}`;

// A Gaussian is a point as wide as all of it that is drawn: one vertex and no triangle, which software
// draws fastest. Points whose centre lies outside the viewport are not drawn: it has a border of pixels.
const VERTEX = `#version 300 es
precision highp float; precision highp int; precision highp sampler2D; precision highp usampler2D;
uniform usampler2D order, places, forms;
uniform sampler2D colors;
uniform vec2 size;
flat out vec2 center; flat out vec3 conic; flat out vec4 color;

ivec2 texel(int number) { return ivec2(number % ${WIDTH}, number / ${WIDTH}); }

void main() {
  ivec2 at = texel(int(texelFetch(order, texel(gl_VertexID), 0).r));
  uvec4 form = texelFetch(forms, at, 0);
  gl_Position = vec4(0, 0, 2, 1);
  if (form.w == 0u) return;
  vec4 place = uintBitsToFloat(texelFetch(places, at, 0));
  vec2 seen = unpackHalf2x16(form.w);
  center = place.xy; conic = uintBitsToFloat(form.xyz);
  color = vec4(min(texelFetch(colors, at, 0).rgb * seen.y, 1.0), seen.x);
  gl_PointSize = 2.0 * max(place.z, place.w);
  gl_Position = vec4((center * 2.0 - size) * vec2(1, -1) / (size + ${2 * BORDER}.0), 0, 1);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform vec2 size;
flat in vec2 center; flat in vec3 conic; flat in vec4 color;
out vec4 shown;
void main() {
  vec2 d = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y) - center;
  float alpha = color.a * exp(-0.5 * (conic.x * d.x * d.x + 2.0 * conic.y * d.x * d.y + conic.z * d.y * d.y));
  if (alpha < 1.0 / 255.0) discard;
  shown = vec4(color.rgb * alpha, alpha);
}`;

// Data ------------------------------------------------------------------------------------------

async function unpack() {
  const text = atob(byId("data").textContent.trim());
  const packed = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const kinds = { f4: Float32Array, u1: Uint8Array, u4: Uint32Array };
  const arrays = {};
  for (const [name, kind, start, length] of meta.arrays) arrays[name] = new kinds[kind](buffer, start, length);
  return arrays;
}

// Pose ------------------------------------------------------------------------------------------

const lerp = (a, b, t) => a + (b - a) * t;

function multiply(a, b) {  // rows of 3 x 4 rigid transforms
  const c = new Float32Array(12);
  for (let i = 0; i < 3; i++) for (let k = 0; k < 4; k++)
    c[4 * i + k] = a[4 * i] * b[k] + a[4 * i + 1] * b[4 + k] + a[4 * i + 2] * b[8 + k] + (k === 3 ? a[4 * i + 3] : 0);
  return c;
}

function local(w, x, y, z, place) {
  const s = 2 / (w * w + x * x + y * y + z * z);
  return [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y), place[0],
    s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x), place[1],
    s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y), place[2]];
}

// Bones (posed from bind, 12 floats each) and expressions at a time in frames.
function poseAt(data, time) {
  const first = Math.min(Math.floor(time), meta.frames - 1), next = Math.min(first + 1, meta.frames - 1);
  const part = time - first, J = meta.parents.length, world = [], bones = new Float32Array(12 * J);
  for (let j = 0; j < J; j++) {
    const a = data.rotations.subarray(4 * (first * J + j)), b = data.rotations.subarray(4 * (next * J + j));
    const sign = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3] < 0 ? -1 : 1;
    const q = [0, 1, 2, 3].map((k) => lerp(a[k], sign * b[k], part));
    const place = [0, 1, 2].map((k) => data.offsets[3 * j + k]
      + (j ? 0 : lerp(data.trans[3 * first + k], data.trans[3 * next + k], part)));
    const own = local(...q, place), parent = meta.parents[j];
    world.push(parent < 0 ? own : multiply(world[parent], own));
    bones.set(multiply(world[j], data.binds.subarray(12 * j, 12 * j + 12)), 12 * j);
  }
  const E = meta.expressions.length;
  const weights = meta.expressions.map((_, e) =>
    lerp(data.weights[first * E + e], data.weights[next * E + e], part) + (state.face[e] || 0));
  return { bones, weights };
}

// Drawing ---------------------------------------------------------------------------------------

// A program whose samplers read the units of their names: how it is taken into use, and where a uniform is.
function program(vertex, fragment, units) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  gl.useProgram(made);
  const at = (name) => gl.getUniformLocation(made, name);
  Object.entries(units).forEach(([name, unit]) => gl.uniform1i(at(name), unit));
  return { use: () => gl.useProgram(made), at };
}

const FORMATS = { f: () => [gl.RGBA32F, gl.RGBA, gl.FLOAT], b: () => [gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE],
  i: () => [gl.RGBA8UI, gl.RGBA_INTEGER, gl.UNSIGNED_BYTE], w: () => [gl.RGBA32UI, gl.RGBA_INTEGER, gl.UNSIGNED_INT],
  n: () => [gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT] };

// A texture whose content is set by the function that comes back.
function texture(unit, width, height, format) {
  const [inner, layout, kind] = FORMATS[format]();
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texStorage2D(gl.TEXTURE_2D, 1, inner, width, height);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  return (values) => {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, width, height, layout, kind, values);
  };
}

// Textures of unsigned integers that are drawn into.
function target(units, width, height) {
  const made = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, made);
  units.forEach((unit, k) => {
    texture(unit, width, height, "w");
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + k, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  });
  gl.drawBuffers(units.map((_, k) => gl.COLOR_ATTACHMENT0 + k));
  if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE)
    throw new Error("this browser cannot draw into textures of integers");
  return made;
}

const padded = (values, width, perRow, Kind, into) => {  // values of ``width`` as four, to whole rows
  const count = values.length / width, out = into || new Kind(4 * perRow * Math.ceil(count / perRow));
  for (let i = 0; i < count; i++) for (let k = 0; k < width; k++) out[4 * i + k] = values[width * i + k];
  return out;
};

function painter(data) {
  const rows = Math.ceil(meta.count / WIDTH), J = meta.parents.length, U = UNITS;
  const project = program(EVERY_TEXEL, PROJECT, U), splat = program(VERTEX, FRAGMENT, U);
  const setMeans = texture(U.means, WIDTH, rows, "f"), setBones = texture(U.bones, 4, J, "f");
  const setOrder = texture(U.order, WIDTH, rows, "n"), projected = target([U.places, U.forms], WIDTH, rows);
  texture(U.shapes, WIDTH, rows, "f")(padded(data.scales, 3, WIDTH, Float32Array));
  texture(U.turns, WIDTH, rows, "f")(padded(data.turns, 4, WIDTH, Float32Array));
  texture(U.colors, WIDTH, rows, "b")(padded(data.colors, 4, WIDTH, Uint8Array));
  texture(U.skin, WIDTH, rows, "f")(padded(data.skin, 4, WIDTH, Float32Array));
  if (meta.light) texture(U.normals, WIDTH, rows, "b")(padded(data.normals, 3, WIDTH, Uint8Array));
  texture(U.joints, WIDTH, rows, "i")(padded(data.joints, 4, WIDTH, Uint8Array));
  const { raised, raise } = raiser(data, meta.expressions), sort = sorter(data, raised, meta.count);
  const wide = padded(raised, 3, WIDTH, Float32Array);
  setMeans(wide);
  let order = new Uint32Array(WIDTH * rows), sorted = false, fresh = false;
  const ask = background(data, ({ order: done, ms }) => {
    state.sorting = ms;
    if (!state.playing) return done;  // The picture stands, in an order of its own.
    const before = order;
    [order, fresh] = [done, true];
    return before;
  });
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  project.use();
  gl.uniform1i(project.at("round_ones"), meta.round ? 1 : 0);
  if (meta.light) gl.uniform1fv(project.at("light"), meta.light);
  return (time, camera) => {
    const { bones, weights } = poseAt(data, time);
    if (raise(weights)) setMeans(padded(raised, 3, WIDTH, Float32Array, wide));
    const columns = new Float32Array(16 * J);
    for (let j = 0; j < J; j++) for (let i = 0; i < 3; i++) for (let k = 0; k < 4; k++)
      columns[16 * j + 4 * k + i] = bones[12 * j + 4 * i + k];
    setBones(columns);
    const [right, down, forward] = [camera.axes.slice(0, 3), camera.axes.slice(3, 6), camera.axes.slice(6)];
    // What moves keeps its last order until the next is there; what stands is in the right one.
    if (!(state.playing && sorted && ask && ask(bones, weights, forward))) { sort(bones, forward, order); sorted = fresh = true; }
    if (fresh) setOrder(order);
    fresh = false;
    gl.bindFramebuffer(gl.FRAMEBUFFER, projected);
    gl.viewport(0, 0, WIDTH, rows);
    gl.disable(gl.BLEND);
    project.use();
    gl.uniformMatrix3fv(project.at("view"), false, [0, 1, 2].flatMap((k) => [right[k], down[k], forward[k]]));
    gl.uniform3fv(project.at("eye"), camera.eye);
    gl.uniform2f(project.at("size"), canvas.width, canvas.height);
    gl.uniform1f(project.at("focal"), canvas.height / 2 / Math.tan(FOV / 2));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(-BORDER, -BORDER, canvas.width + 2 * BORDER, canvas.height + 2 * BORDER);
    gl.clearColor(...state.background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    splat.use();
    gl.uniform2f(splat.at("size"), canvas.width, canvas.height);
    gl.drawArrays(gl.POINTS, 0, meta.count);
  };
}

// View and controls -----------------------------------------------------------------------------

const start = () => ({ yaw: +(options.yaw || 0), pitch: +(options.pitch || 0),
  distance: +(options.distance || meta.distance), target: options.target ? options.target.split(",").map(Number) : [...meta.center] });
const state = { ...start(), time: +(options.frame || 0), playing: !("frame" in options) && meta.frames > 1,
  speed: 1, face: {}, background: [1, 1, 1], dirty: true };

function camera() {
  const { yaw, pitch, distance, target } = state;
  const forward = [-Math.sin(yaw) * Math.cos(pitch), -Math.sin(pitch), -Math.cos(yaw) * Math.cos(pitch)];
  const right = [Math.cos(yaw), 0, -Math.sin(yaw)];
  const down = [0, 1, 2].map((k) => {  // forward x right
    const [a, b] = [(k + 1) % 3, (k + 2) % 3];
    return forward[a] * right[b] - forward[b] * right[a];
  });
  return { eye: target.map((t, k) => t - distance * forward[k]), axes: [...right, ...down, ...forward] };
}

function controls() {
  const fingers = new Map();
  const spread = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, { x: event.clientX, y: event.clientY }); canvas.setPointerCapture(event.pointerId); });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    const before = fingers.size === 2 ? spread() : 0, dx = event.clientX - finger.x, dy = event.clientY - finger.y;
    finger.x = event.clientX; finger.y = event.clientY;
    if (fingers.size === 2) state.distance *= before / spread();
    else if (event.shiftKey || event.buttons === 2) {
      const { axes } = camera(), step = 2 * state.distance * Math.tan(FOV / 2) / canvas.clientHeight;
      state.target = state.target.map((t, k) => t - step * (dx * axes[k] + dy * axes[3 + k]));
    } else {
      state.yaw -= dx * 0.01;
      state.pitch = Math.min(1.5, Math.max(-1.5, state.pitch + dy * 0.01));
    }
    state.dirty = true;
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); state.distance *= Math.exp(event.deltaY * 0.001); state.dirty = true; }, { passive: false });
  byId("frame").max = meta.frames - 1;
  byId("frame").oninput = (event) => { state.time = +event.target.value; state.playing = false; state.dirty = true; };
  byId("speed").oninput = (event) => { state.speed = +event.target.value; };
  byId("play").onclick = () => { state.playing = !state.playing && meta.frames > 1; state.dirty = true; };
  byId("reset").onclick = () => Object.assign(state, start(), { dirty: true });
  byId("background").oninput = (event) => {
    state.background = [1, 3, 5].map((k) => parseInt(event.target.value.slice(k, k + 2), 16) / 255);
    state.dirty = true;
  };
  meta.expressions.forEach((expression, e) => {
    const label = document.createElement("label"), slider = document.createElement("input");
    label.textContent = expression.name;
    Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.01, value: 0 });
    slider.oninput = () => { state.face[e] = +slider.value; state.dirty = true; };
    label.append(slider);
    byId("face").append(label);
  });
  byId("panel").hidden = "bare" in options;
}

function resize() {
  const fixed = options.size && options.size.split("x").map(Number), ratio = fixed ? 1 : devicePixelRatio;
  const [width, height] = fixed || [innerWidth * ratio, innerHeight * ratio].map(Math.round);
  if (fixed) Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; state.dirty = true; }
}

// Milliseconds of this thread a frame, of the other one an order, and of a frame that is drawn and
// read back, as attributes of the page: medians.
async function measure(draw, frames) {
  const pixel = new Uint8Array(4), host = [], whole = [], orders = [];
  const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
  resize();
  state.playing = true;
  for (let i = 0; i < frames; i++) {
    const began = performance.now();
    draw(i % meta.frames, camera());
    host.push(performance.now() - began);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    whole.push(performance.now() - began);
    await new Promise((after) => setTimeout(after, 50));
    if (state.sorting) orders.push(state.sorting);
  }
  Object.assign(document.body.dataset, { ms: median(whole), host: median(host), order: median(orders) });
}

async function main() {
  if (!gl) throw new Error("this browser has no WebGL 2");
  const data = await unpack();
  const draw = painter(data);
  controls();
  if (options.time) await measure(draw, +options.time);
  let last = performance.now(), rate = 0;
  const tick = (now) => {
    const seconds = Math.min((now - last) / 1000, 0.2);
    last = now;
    rate = lerp(rate, 1 / Math.max(seconds, 1e-3), 0.1);
    if (state.playing) { state.time = (state.time + seconds * meta.fps * state.speed) % meta.frames; state.dirty = true; }
    resize();
    if (state.dirty) {
      state.dirty = false;
      draw(state.time, camera());
      byId("frame").value = Math.floor(state.time);
      byId("play").textContent = state.playing ? "pause" : "play";
      byId("told").textContent = state.playing ? `${rate.toFixed(0)} FPS` : "";
    }
    requestAnimationFrame(tick);
  };
  resize();
  tick(last);
}

main().catch((error) => { byId("told").textContent = error.message; throw error; });
