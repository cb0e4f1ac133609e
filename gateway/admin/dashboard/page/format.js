// Numbers and times as people read them.

export const NONE = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const fixed = (value, digits) => value.toFixed(digits);

/** A count. */
export const count = (value) => (value === null || value === undefined ? NONE : whole.format(value));

/** So many things, in the singular or the plural. */
export const many = (value, one, more = `${one}s`) => `${count(value)} ${value === 1 ? one : more}`;

/** So many a second. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  return value < 100 ? fixed(value, 1) : whole.format(value);
}

/** Milliseconds, without their unit. */
export function millis(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 10) return fixed(value, 2);
  return value < 100 ? fixed(value, 1) : whole.format(value);
}

/** Bytes in one unit. */
export function bytes(value) {
  if (value < 10240) return `${whole.format(value)} B`;
  const [unit, size] = value < 1048576 ? ["KiB", 1024] : ["MiB", 1048576];
  return `${fixed(value / size, value / size < 10 ? 1 : 0)} ${unit}`;
}

/** A share from 0 to 1. Only what is all of it is 100 %. */
export function percent(share) {
  if (share === null || share === undefined) return NONE;
  if (share === 1) return "100 %";
  if (share === 0) return "0 %";
  const value = Math.min(share * 100, 99.99);
  return `${fixed(value, value >= 99 || value < 1 ? 2 : 1)} %`;
}

/** Seconds in one unit. */
export function period(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** How far the clock of the gateway is before that of the browser, in milliseconds. */
let ahead = 0;

/** Takes in what time it is at the gateway, as its answers say. */
export function setClock(date) {
  const there = Date.parse(date ?? "");
  // A header has whole seconds, so less than two are none.
  if (!Number.isNaN(there)) ahead = Math.abs(there - Date.now()) > 2000 ? there - Date.now() : 0;
}

/** How long ago a time was, by the clock of the gateway. */
export const ago = (time) => period((Date.now() + ahead - Date.parse(time)) / 1000);

/** The time of the day, and the day where it is not today. */
export function clock(time) {
  const at = new Date(time);
  const pad = (number) => String(number).padStart(2, "0");
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  const hour = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return at.toDateString() === new Date().toDateString() ? hour : `${day} ${hour}`;
}
