// Takes a photo with the camera of a computer, in a dialog. Phones have their own way: a file input with `capture`.

import { h } from "./dom.js";
import { t } from "./i18n.js";

/** Return whether this is a computer whose browser can film: https or this machine, and a camera interface. */
export function canFilm() {
  return matchMedia("(hover: hover) and (pointer: fine)").matches && Boolean(navigator.mediaDevices?.getUserMedia);
}

/** Ask for a photo; returns it as a file, or null if none was taken. The camera is off again afterwards. */
export async function photograph() {
  const video = h("video", { autoplay: true, muted: true, playsInline: true, "aria-label": t("camera.view") });
  const status = h("p", { className: "soft", role: "status" }, t("camera.waiting"));
  const shoot = h("button", { type: "submit", className: "strong", disabled: true }, t("camera.take"));
  const cancel = h("button", { type: "button" }, t("key.cancel"));
  const title = h("h2", { id: "camera-title" }, t("photograph"));
  const form = h("form", {}, title, video, status, h("div", { className: "ways" }, shoot, cancel));
  const dialog = h("dialog", { className: "wide", id: "camera-dialog", "aria-labelledby": "camera-title" }, form);
  let photo = null;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    photo = await still(video);
    dialog.close();
  });
  cancel.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  let stream = null;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
    status.textContent = "";
    shoot.disabled = false;
    shoot.focus();
  } catch {
    status.textContent = t("camera.none");
  }
  await closed;
  for (const track of stream?.getTracks() ?? []) track.stop();
  dialog.remove();
  return photo;
}

async function still(video) {
  const canvas = new OffscreenCanvas(video.videoWidth || 1, video.videoHeight || 1);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  return new File([blob], `${t("camera.file")}.jpg`, { type: "image/jpeg" });
}
