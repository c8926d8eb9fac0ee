// The page that follows a reciter. What the server says is in docs/reference/protocol.md.

const RATE = 16000;
const MOST_BUFFERED = 64000; // bytes that may wait in the browser: 2 s of sound
const MOST_KEPT = 30 * 60; // seconds of a microphone that are kept for listening again
const SESSIONS_KEPT = 20; // summaries, in this browser only
const AGAIN_SECONDS = [0.5, 1, 2, 4, 8, 15, 30]; // between attempts to connect again
const MOST_REPEATED = 120; // seconds of audio that are sent again after that

const TEXTS = {
  en: {
    recite: "Recite", stop: "Stop", openFile: "Open a recording", surah: "Surah", verse: "Verse",
    anywhere: "Find the place by itself", controls: "Controls", summary: "This session", other: "العربية",
    source: "Text of the Quran:", font: "Font: Amiri Quran,",
    legendCurrent: "current word", legendPending: "recited, not final yet", legendFinal: "recited",
    legendRepeated: "repeated", legendSkipped: "skipped", legendDiffers: "recognized differently",
    welcome: "Press Recite, or open a recording. The sound goes to this server only and is not stored.",
    connecting: "Connecting…", searching: "Listening for the place…", following: "Following: {place}",
    again: "The connection was lost; connecting again…", lost: "The connection was lost.",
    noMicrophone: "The microphone cannot be used: {why}",
    noFile: "This file cannot be read: it is not a recording, or in a format that this browser does not know.",
    behind: "The server is {seconds} s behind.", decoding: "Reading the recording…",
    ended: "Finished.", words: "Words", verses: "Verses", time: "Time", pace: "Words a minute",
    pauses: "Pauses over 2 s", repeats: "Repeated words", skips: "Skipped words", seconds: "{n} s",
    differs: "Recognized differently", lookAgain: "Words to look at again", none: "None.",
    earlier: "Earlier sessions in this browser", forget: "Forget them", recordingOf: "Recording",
    text: "Text of the Quran; arrow keys choose a recited word, Enter plays it", player: "Recording",
    progress: "Progress", downloads: "Downloads", playWord: "Play {word}, {place}: {why}",
    limit: "The session reached its longest time.",
  },
  ar: {
    recite: "ابدأ التلاوة", stop: "إيقاف", openFile: "افتح تسجيلًا", surah: "السورة", verse: "الآية",
    anywhere: "تحديد الموضع تلقائيًا", controls: "أدوات التحكم", summary: "هذه الجلسة", other: "English",
    source: "نص القرآن:", font: "الخط: أميري قرآن،",
    legendCurrent: "الكلمة الحالية", legendPending: "تُليت ولم تثبت بعد", legendFinal: "تُليت",
    legendRepeated: "مكررة", legendSkipped: "متروكة", legendDiffers: "سُمعت على خلاف النص",
    welcome: "اضغط «ابدأ التلاوة» أو افتح تسجيلًا. لا يُرسل الصوت إلا إلى هذا الخادم ولا يُحفظ.",
    connecting: "جارٍ الاتصال…", searching: "جارٍ البحث عن الموضع…", following: "الموضع: {place}",
    again: "انقطع الاتصال؛ جارٍ إعادة الاتصال…", lost: "انقطع الاتصال.",
    noMicrophone: "تعذر استخدام الميكروفون: {why}",
    noFile: "تعذرت قراءة هذا الملف: ليس تسجيلًا صوتيًا أو أن صيغته غير معروفة لهذا المتصفح.",
    behind: "الخادم متأخر {seconds} ث.", decoding: "جارٍ قراءة التسجيل…",
    ended: "انتهت الجلسة.", words: "الكلمات", verses: "الآيات", time: "المدة", pace: "كلمة في الدقيقة",
    pauses: "وقفات أطول من ثانيتين", repeats: "كلمات مكررة", skips: "كلمات متروكة", seconds: "{n} ث",
    differs: "سُمعت على خلاف النص", lookAgain: "كلمات للمراجعة", none: "لا شيء.",
    earlier: "جلسات سابقة في هذا المتصفح", forget: "احذفها", recordingOf: "التسجيل",
    text: "نص القرآن؛ اختر كلمة متلوة بالأسهم واضغط Enter لسماعها", player: "التسجيل",
    progress: "التقدم", downloads: "التنزيلات", playWord: "استمع إلى {word}، {place}: {why}",
    limit: "بلغت الجلسة أقصى مدة.",
  },
};

const element = (id) => document.getElementById(id);
const say = (key, values = {}) =>
  Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, value), TEXTS[language][key]);
const isArabic = navigator.language.startsWith("ar");
let language = localStorage.getItem("language") ?? (isArabic ? "ar" : "en");

let surahs = []; // {name, verses}
let shown = 0; // surah on the page
const texts = new Map(); // surah -> its text
let words = []; // final ones, as the server sent them, times from the beginning of the first connection
let position = { word: null, pending: [] };
let session = null; // while one is open
let recording = null; // object URL of a file, or of what the microphone gave
let stopAt = Infinity; // seconds at which the player is to stop
let chosen = null; // place in `words` of the one that the arrow keys are on
let flagBelow = 0; // confidence; the server sends it
window.recitation = () => ({ words, flag_below: flagBelow }); // for `quran-asr benchmark follow`

// The text

async function load(surah) {
  if (!texts.has(surah)) {
    const answer = await fetch(`text/${surah}`);
    texts.set(surah, await answer.json());
  }
  return texts.get(surah);
}

async function show(surah) {
  if (surah === shown) return;
  shown = surah;
  const text = await load(surah);
  if (surah !== shown) return; // another one was asked for meanwhile
  const title = document.createElement("h1");
  title.textContent = `سورة ${text.name}`;
  const verses = document.createElement("div");
  verses.className = "verses";
  text.verses.forEach((verse, ayah) => {
    verse.forEach((word, index) => {
      const span = document.createElement("span");
      span.className = "word";
      span.id = `w${surah}:${ayah + 1}:${index}`;
      span.textContent = word;
      verses.append(span, " ");
    });
    const number = document.createElement("span");
    number.className = "ayah";
    number.textContent = `\u06dd${(ayah + 1).toLocaleString("ar-EG", { useGrouping: false })}`;
    verses.append(number, " ");
  });
  const parts = [title];
  if (text.basmala) {
    const basmala = document.createElement("p");
    basmala.className = "basmala";
    basmala.textContent = text.basmala;
    parts.push(basmala);
  }
  element("text").replaceChildren(...parts, verses);
  element("surah").value = surah;
  fillVerses();
  words.forEach(mark);
  markPosition(position);
}

const differs = (word) => Boolean(word.word) && word.confidence < flagBelow;
const span = (word) => document.getElementById(`w${word}`);

function mark(word) {
  const there = word.word && span(word.word);
  if (there) {
    there.classList.add("final", "playable");
    there.classList.remove("skipped");
    if (word.kind === "repeat") there.classList.add("repeated");
    if (differs(word)) there.classList.add("differs");
  }
  for (const skipped of word.skipped) {
    const left = span(skipped);
    if (left && !left.classList.contains("final")) left.classList.add("skipped");
  }
}

function markPosition(next) {
  for (const word of position.pending) span(word)?.classList.remove("pending");
  document.querySelectorAll("main .current").forEach((one) => {
    one.classList.remove("current");
    one.removeAttribute("aria-current");
  });
  position = next;
  for (const word of position.pending) span(word)?.classList.add("pending");
  const current = position.word && span(position.word);
  if (!current) return;
  current.classList.add("current");
  current.setAttribute("aria-current", "true");
  const { top, bottom } = current.getBoundingClientRect();
  const header = document.querySelector("header").offsetHeight;
  if (top < header + 20 || bottom > innerHeight - 80) current.scrollIntoView({ block: "center" });
}

// The session

class Session {
  // source: {rate, begin(send), end()}; `send` takes Float32Array and returns a promise that may wait
  constructor(source, start) {
    this.source = source;
    this.start = start;
    this.sent = 0; // samples, of all connections
    this.offset = 0; // seconds before this connection
    this.attempt = 0;
    this.stopping = false;
    this.kept = []; // what the microphone gave, Int16Array each
    this.open = []; // {from, pcm}: audio since the last final word, which a new connection needs again
    this.connect();
  }

  connect() {
    const address = new URL("session", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.hash = "";
    this.socket = new WebSocket(address);
    this.ready = false;
    this.failed = false;
    this.socket.onopen = () => {
      const start = { type: "start", rate: this.source.rate, token: location.hash.slice(1) };
      if (this.start) start.at = this.start;
      this.socket.send(JSON.stringify(start));
    };
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => this.closed();
  }

  take(message) {
    if (session !== this) return; // another one has begun meanwhile
    if (message.type === "ready") {
      this.ready = true;
      flagBelow = message.flag_below;
      this.attempt = 0;
      this.offset = (this.open[0]?.from ?? this.sent) / this.source.rate;
      for (const { pcm } of this.open) this.socket.send(pcm);
      if (this.stopping) this.socket.send('{"type":"stop"}');
      if (!this.begun) {
        this.begun = true;
        tell("searching");
        Promise.resolve(this.source.begin((samples) => this.send(samples))).catch((error) => fail(error));
      }
    } else if (message.type === "position") {
      markPosition(message);
      if (message.word) follow(message.word);
    } else if (message.type === "words") {
      for (const word of message.words) {
        word.start += this.offset;
        word.end += this.offset;
        words.push(word);
        mark(word);
      }
      const done = words.at(-1).end * this.source.rate;
      this.open = this.open.filter(({ from, pcm }) => from + pcm.length > done);
    } else if (message.type === "error") {
      this.failed = true;
      tell("", {}, [message.what, message.remedy].filter(Boolean).join(" — "));
    } else if (message.type === "end") {
      this.over = true;
      this.source.end();
      finish(this.sent / this.source.rate, message.reason);
    }
  }

  async send(samples) {
    const pcm = new Int16Array(samples.length);
    for (let i = 0; i < samples.length; i++) pcm[i] = Math.max(-1, Math.min(1, samples[i])) * 32767;
    if (!this.source.live) {
      while (!this.over && !this.failed && (!this.ready || this.socket.bufferedAmount > MOST_BUFFERED)) await wait(0.05);
      if (this.over || this.failed) throw new Error("ended");
    } else if (this.sent < MOST_KEPT * this.source.rate) this.kept.push(pcm);
    this.open.push({ from: this.sent, pcm });
    this.sent += samples.length; // time goes on, whoever hears
    if (this.open[0].from < this.sent - MOST_REPEATED * this.source.rate) this.open.shift();
    if (!this.ready || this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(pcm);
    const behind = this.socket.bufferedAmount / 2 / this.source.rate;
    if (this.source.seconds) element("progress").value = (this.sent / this.source.rate - behind) / this.source.seconds;
    if (this.source.live && behind > 2) tell("behind", { seconds: behind.toFixed(0) });
  }

  stop() {
    this.stopping = true;
    this.source.end();
    if (this.ready && this.socket.readyState === WebSocket.OPEN) this.socket.send('{"type":"stop"}');
    else {
      this.attempt = AGAIN_SECONDS.length; // not again
      this.socket.close();
    }
  }

  async closed() {
    this.ready = false;
    if (this.over || session !== this) return;
    if (this.failed || this.attempt >= AGAIN_SECONDS.length) {
      this.over = true;
      this.source.end();
      if (!this.failed) tell("lost", {}, "", true);
      finish(this.sent / this.source.rate, "");
      return;
    }
    tell("again");
    this.start = words.findLast((word) => word.word)?.word ?? this.start;
    markPosition({ word: null, pending: [] });
    await wait(AGAIN_SECONDS[this.attempt++]);
    this.connect();
  }
}

const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function microphone() {
  const media = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  let context = new AudioContext({ sampleRate: RATE });
  let input;
  try {
    input = context.createMediaStreamSource(media);
  } catch { // Firefox connects a microphone at its own rate only; the server converts it
    await context.close();
    context = new AudioContext();
    input = context.createMediaStreamSource(media);
  }
  await context.audioWorklet.addModule("microphone.js");
  const worklet = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
  return {
    live: true,
    rate: context.sampleRate,
    begin(send) {
      worklet.port.onmessage = ({ data }) => send(data);
      input.connect(worklet);
    },
    end() {
      media.getTracks().forEach((track) => track.stop());
      if (context.state !== "closed") context.close();
    },
  };
}

async function fromFile(file) {
  // An offline context decodes and resamples; its own length does not matter
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  let ended = false;
  return {
    live: false,
    rate: RATE,
    seconds: decoded.duration,
    async begin(send) {
      const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
      const step = RATE / 10;
      for (let at = 0; at < decoded.length && !ended; at += step) {
        const block = channels[0].slice(at, at + step);
        for (const other of channels.slice(1)) other.subarray(at, at + step).forEach((v, i) => (block[i] += v));
        await send(block.map((value) => value / channels.length));
      }
      if (!ended) session?.stop();
    },
    end() {
      ended = true;
    },
  };
}

async function begin(makeSource, file = null) {
  const source = await makeSource(); // what fails here leaves the last session on the page
  session?.stop();
  session = null;
  discardRecording();
  if (file) offer(file);
  element("progress").hidden = !source.seconds;
  element("progress").value = 0;
  words = [];
  chosen = null;
  shown = 0;
  position = { word: null, pending: [] };
  element("summary").hidden = true;
  const surah = Number(element("surah").value);
  const at = element("anywhere").checked ? null : `${surah}:${element("verse").value}:0`;
  await show(surah);
  tell("connecting");
  session = new Session(source, at);
  controls();
}

async function follow(word) {
  const [surah, ayah] = word.split(":").map(Number);
  tell("following", { place: `\u2068${surahs[surah - 1].name}\u2069 ${ayah}` }); // isolated: it runs to the left
  await show(surah);
}

function finish(seconds, reason) {
  if (session?.kept.length) offer(wav(session.kept, session.source.rate));
  session = null;
  markPosition({ word: null, pending: [] });
  element("progress").hidden = true;
  controls();
  if (reason) tell(reason === "limit" ? "limit" : "ended");
  summarize(seconds);
}

// Afterwards

function summarize(seconds) {
  const recited = words.filter((word) => word.word);
  const verses = new Set(recited.map((word) => word.word.split(":", 2).join(":")));
  const pauses = words.filter((word, i) => i && word.start - words[i - 1].end > 2).length;
  const repeated = recited.filter((word) => word.kind === "repeat");
  const skipped = recited.flatMap((word) => word.skipped);
  const other = recited.filter(differs);
  const spoken = recited.length ? recited.at(-1).end - recited[0].start : 0;
  const figures = [
    ["words", recited.length],
    ["verses", [...verses].slice(0, 3).join(", ") + (verses.size > 3 ? ` … (${verses.size})` : "")],
    ["time", say("seconds", { n: seconds.toFixed(0) })],
    ["pace", spoken ? ((60 * recited.length) / spoken).toFixed(0) : "—"],
    ["pauses", pauses],
    ["repeats", repeated.length],
    ["skips", skipped.length],
    ["differs", other.length],
  ];
  remember(figures);
  element("figures").replaceChildren(
    ...figures.flatMap(([key, value]) => {
      const term = document.createElement("dt");
      const detail = document.createElement("dd");
      term.textContent = say(key);
      detail.textContent = value;
      return [term, detail];
    }),
  );
  const again = [
    ...recited.flatMap((word) =>
      word.skipped.map((left) => ({ word: left, why: "legendSkipped", from: word.start - 1, to: word.start })),
    ),
    ...repeated.map((word) => ({ word: word.word, why: "legendRepeated", from: word.start, to: word.end })),
    ...other.map((word) => ({ word: word.word, why: "legendDiffers", from: word.start, to: word.end })),
  ].sort((one, two) => one.to - two.to || two.from - one.from);
  element("look-again").replaceChildren(
    ...again.map(({ word, why, from, to }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.lang = "ar";
      const [surah, ayah, index] = word.split(":").map(Number);
      load(surah).then((text) => {
        button.textContent = text.verses[ayah - 1][index];
        button.title = `${surah}:${ayah} ${say(why)}`;
        const values = { word: button.textContent, place: `${surah}:${ayah}`, why: say(why) };
        button.setAttribute("aria-label", say("playWord", values));
      });
      button.onclick = async () => {
        await show(surah);
        span(word).scrollIntoView({ block: "center" });
        listen(from, to);
      };
      return button;
    }),
  );
  if (!again.length) element("look-again").textContent = say("none");
  element("summary").hidden = false;
  element("summary").scrollIntoView({ block: "start" });
}

// Figures of this session beside those of earlier ones. They stay in this browser.
function remember(figures) {
  const kept = JSON.parse(localStorage.getItem("sessions") ?? "[]");
  const day = new Date().toISOString().slice(0, 16).replace("T", " ");
  if (words.length) kept.unshift({ day, figures });
  localStorage.setItem("sessions", JSON.stringify(kept.slice(0, SESSIONS_KEPT)));
  showEarlier();
}

function showEarlier() {
  const kept = JSON.parse(localStorage.getItem("sessions") ?? "[]");
  element("earlier").hidden = !kept.length;
  element("earlier-list").replaceChildren(
    ...kept.map(({ day, figures }) => {
      const line = document.createElement("li");
      line.textContent = `${day}: ${figures.map(([key, value]) => `${say(key)} ${value}`).join(" · ")}`;
      return line;
    }),
  );
}

function wav(chunks, rate) {
  const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"), text(8, "WAVEfmt "), text(36, "data");
  head.setUint32(4, 36 + bytes, true), head.setUint32(16, 16, true), head.setUint16(20, 1, true);
  head.setUint16(22, 1, true), head.setUint32(24, rate, true), head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true), head.setUint16(34, 16, true), head.setUint32(40, bytes, true);
  return new Blob([head, ...chunks], { type: "audio/wav" });
}

function discardRecording() {
  if (recording) URL.revokeObjectURL(recording);
  recording = null;
  element("player").hidden = true;
}

function offer(sound) {
  discardRecording();
  recording = URL.createObjectURL(sound);
  element("player").src = recording;
  element("player").hidden = false;
}

function play(word) {
  const found = words.find((one) => one.word === word);
  if (found) listen(found.start);
}

function listen(from, to = Infinity) {
  if (!recording) return;
  const player = element("player");
  player.currentTime = Math.max(0, from);
  stopAt = to;
  player.play().catch(() => {}); // where the browser forbids it, its own controls are there
}

function clock(seconds, point) {
  const ms = Math.round(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const [h, m, s] = [ms / 3600000, (ms / 60000) % 60, (ms / 1000) % 60].map(Math.floor);
  return `${two(h)}:${two(m)}:${two(s)}${point}${String(ms % 1000).padStart(3, "0")}`;
}

async function lines() { // verse by verse, as recited
  const found = [];
  for (const word of words.filter((one) => one.word)) {
    const [surah, ayah, index] = word.word.split(":").map(Number);
    const verse = `${surah}:${ayah}`;
    if (found.at(-1)?.verse !== verse) found.push({ verse, start: word.start, end: word.end, texts: [] });
    found.at(-1).texts.push((await load(surah)).verses[ayah - 1][index]);
    found.at(-1).end = word.end;
  }
  return found.map((line) => ({ ...line, text: line.texts.join(" ") }));
}

const FORMATS = {
  json: async () => JSON.stringify({ words, verses: await lines(), flag_below: flagBelow }, null, 1),
  srt: async () =>
    (await lines()).map((one, i) => `${i + 1}\n${clock(one.start, ",")} --> ${clock(one.end, ",")}\n${one.text}\n`).join("\n"),
  vtt: async () =>
    `WEBVTT\n\n${(await lines()).map((one) => `${clock(one.start, ".")} --> ${clock(one.end, ".")}\n${one.text}\n`).join("\n")}`,
  TextGrid: async () => {
    const end = words.at(-1)?.end ?? 0;
    const filled = []; // a tier has no gaps
    let at = 0;
    for (const word of words) {
      if (word.start > at) filled.push([at, word.start, ""]);
      if (word.end > Math.max(at, word.start)) filled.push([Math.max(at, word.start), word.end, word.text]);
      at = Math.max(at, word.end);
    }
    const intervals = filled.map(
      ([from, to, text], i) => `        intervals [${i + 1}]:\n            xmin = ${from}\n            xmax = ${to}\n            text = "${text}"\n`,
    );
    return (
      `File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = ${end}\ntiers? <exists>\nsize = 1\nitem []:\n` +
      `    item [1]:\n        class = "IntervalTier"\n        name = "words"\n        xmin = 0\n        xmax = ${end}\n` +
      `        intervals: size = ${intervals.length}\n${intervals.join("")}`
    );
  },
};

// Controls

function tell(key, values = {}, text = "", failed = false) {
  const status = element("status");
  status.textContent = text || say(key, values);
  status.classList.toggle("failed", failed || Boolean(text));
}

function fail(error) {
  if (error.message === "ended") return;
  tell("", {}, error.message);
}

function controls() {
  element("microphone").textContent = say(session ? "stop" : "recite");
  element("microphone").setAttribute("aria-pressed", String(Boolean(session)));
  document.body.classList.toggle("live", Boolean(session));
}

function translate() {
  document.documentElement.lang = language;
  document.documentElement.dir = language === "ar" ? "rtl" : "ltr";
  document.querySelectorAll("[data-text]").forEach((one) => (one.textContent = say(one.dataset.text)));
  document.querySelectorAll("[data-label]").forEach((one) => one.setAttribute("aria-label", say(one.dataset.label)));
  element("language").textContent = say("other");
  showEarlier();
  element("language").lang = language === "ar" ? "en" : "ar";
  controls();
}

function fillVerses() {
  const count = surahs[Number(element("surah").value) - 1].verses;
  const options = Array.from({ length: count }, (_, i) => new Option(i + 1, i + 1));
  element("verse").replaceChildren(...options);
}

element("microphone").onclick = async () => {
  if (session) return session.stop();
  try {
    await begin(microphone);
  } catch (error) {
    tell("noMicrophone", { why: error.message }, "", true);
  }
};

async function open(file) {
  tell("decoding");
  try {
    await begin(() => fromFile(file), file);
  } catch {
    tell("noFile", {}, "", true);
  }
}

element("file").onchange = ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = "";
};
document.body.ondragover = (event) => event.preventDefault();
document.body.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
};
element("surah").onchange = ({ target }) => show(Number(target.value));
element("verse").onchange = ({ target }) => {
  element("anywhere").checked = false;
  span(`${element("surah").value}:${target.value}:0`)?.scrollIntoView({ block: "center" });
};
element("language").onclick = () => {
  language = language === "ar" ? "en" : "ar";
  localStorage.setItem("language", language);
  translate();
  if (!session) tell("welcome");
};
element("text").onclick = ({ target }) => {
  if (target.classList.contains("playable")) play(target.id.slice(1));
};
element("text").onkeydown = (event) => {
  const step = { ArrowLeft: 1, ArrowDown: 1, ArrowRight: -1, ArrowUp: -1 }[event.key]; // the text runs to the left
  if (session || !words.length || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter" && chosen !== null) listen(words[chosen].start);
  else if (step) choose(step);
  else return;
  event.preventDefault();
};

async function choose(step) {
  let next = chosen === null ? 0 : chosen + step;
  while (words[next] && !words[next].word) next += step;
  if (!words[next]) return;
  chosen = next;
  await show(Number(words[next].word.split(":", 1)[0]));
  markPosition({ word: words[next].word, pending: [] });
}

element("forget").onclick = () => {
  localStorage.removeItem("sessions");
  showEarlier();
};
element("player").ontimeupdate = () => {
  if (session) return;
  const now = element("player").currentTime;
  if (now > stopAt + 0.3) {
    stopAt = Infinity;
    element("player").pause();
  }
  const word = words.findLast((one) => one.word && one.start <= now);
  markPosition({ word: word && now < word.end + 0.5 ? word.word : null, pending: [] });
  if (word) show(Number(word.word.split(":", 1)[0]));
};
document.querySelectorAll("[data-format]").forEach((button) => {
  button.onclick = async () => {
    const content = new Blob([await FORMATS[button.dataset.format]()], { type: "text/plain" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `recitation.${button.dataset.format}`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
});

translate();
const answer = await fetch("text");
surahs = (await answer.json()).surahs;
element("surah").replaceChildren(...surahs.map(({ name }, i) => new Option(`${i + 1} ${name}`, i + 1)));
tell("welcome");
await show(1);
