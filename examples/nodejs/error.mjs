// What goes wrong, in one class.

/** `code` is for programs and stable, `message` for people, `detail` has the error's fields. */
export class KaasqError extends Error {
  constructor(code, message, detail = {}) {
    super(message);
    Object.assign(this, { name: 'KaasqError', code, detail });
  }
}
