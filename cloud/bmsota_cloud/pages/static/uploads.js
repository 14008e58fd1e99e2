// Forms with files: how far the upload is, and no second one by a double click. Without this file the browser sends the form by itself.
// XMLHttpRequest, because fetch does not tell how much of a body has been sent.
export function startUploads() {
  for (const form of document.querySelectorAll("form[data-upload]")) startUpload(form);
}

function startUpload(form) {
  const bar = form.querySelector("progress");
  const said = form.querySelector("[data-said]");
  const button = form.querySelector("button[type=submit]");
  const sizeMax = Number(form.dataset.upload);

  function say(text, isError) {
    said.textContent = text;
    said.classList.toggle("bad", isError);
  }

  function stop(text) {
    button.disabled = false;
    bar.hidden = true;
    say(text, true);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.disabled) return;
    const data = new FormData(form);
    const size = [...data.values()].reduce((sum, value) => sum + (value instanceof File ? value.size : 0), 0);
    if (size > sizeMax) {
      say(`The files have ${mib(size)}; at most ${mib(sizeMax)} can be uploaded.`, true);
      return;
    }
    const request = new XMLHttpRequest();
    button.disabled = true;
    bar.hidden = false;
    bar.value = 0;
    say("Uploading…", false);
    request.upload.onprogress = ({ lengthComputable, loaded, total }) => {
      if (!lengthComputable) return;
      const percent = Math.floor((100 * loaded) / total);
      bar.value = percent;
      say(percent < 100 ? `Uploading… ${percent} %` : "Verifying signatures and images…", false);
    };
    request.onload = () => {
      // A redirect was followed: the upload is done, and there stands what came of it.
      if (request.status === 200) location.assign(request.responseURL);
      else stop(reason(request));
    };
    request.onerror = () => stop("The connection broke; nothing was uploaded. Try again.");
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "text/html");
    request.send(data);
  });
}

// A page that says why, or the JSON of a refusal before any page.
function reason(request) {
  const type = request.getResponseHeader("Content-Type") ?? "";
  if (type.startsWith("text/html")) {
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    const text = (page.querySelector('[role="alert"].error') ?? page.querySelector("main p"))?.textContent.trim();
    if (text) return text;
  }
  try {
    return JSON.parse(request.responseText).detail;
  } catch {
    return `The platform answered with status ${request.status}.`;
  }
}

const mib = (size) => `${(size / 1024 / 1024).toFixed(1)} MiB`;
