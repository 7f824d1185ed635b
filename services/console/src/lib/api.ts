/** Requests to the services through the front door, and the one error they end in. */

export class ApiError extends Error {
  readonly status: number;
  readonly code: string;
  readonly retryAfter: number | null;
  readonly requestId: string | null;

  /** `status` 0: no answer came at all. */
  constructor(
    status: number,
    code: string,
    title: string,
    retryAfter: number | null,
    requestId: string | null,
  ) {
    super(title);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  get denied(): boolean {
    return this.status === 403;
  }

  /** The service or the way to it is away; the same request may succeed later. */
  get disconnected(): boolean {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

interface Problem {
  code?: string;
  title?: string;
  detail?: string;
  request_id?: string;
}

interface Options {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  body?: unknown;
  bearer?: string;
  signal?: AbortSignal;
}

const TIMEOUT_MS = 15_000;
let csrfToken = "";
let onSignedOut: () => void = () => {};

/** The token of `GET /session`, repeated with every unsafe request. */
export function setCsrfToken(token: string): void {
  csrfToken = token;
}

/** Called when a service answers that it does not know the session. */
export function whenSignedOut(listener: () => void): void {
  onSignedOut = listener;
}

async function problemOf(response: Response): Promise<ApiError> {
  const problem: Problem = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("retry-after"));
  return new ApiError(
    response.status,
    problem.code ?? `http_${response.status}`,
    problem.detail || problem.title || response.statusText,
    Number.isFinite(seconds) && seconds > 0 ? seconds : null,
    problem.request_id ?? response.headers.get("x-request-id"),
  );
}

async function send(path: string, options: Options): Promise<Response> {
  const method = options.method ?? "GET";
  const headers: Record<string, string> = { accept: "application/json" };
  if (options.body !== undefined) headers["content-type"] = "application/json";
  if (options.bearer) headers.authorization = `Bearer ${options.bearer}`;
  else if (method !== "GET" && csrfToken) headers["x-csrf-token"] = csrfToken;
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  const init: RequestInit = {
    method,
    headers,
    credentials: "same-origin",
    signal: options.signal ? AbortSignal.any([options.signal, limit]) : limit,
  };
  if (options.body !== undefined) init.body = JSON.stringify(options.body);
  try {
    return await fetch(path, init);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "No answer", null, null);
  }
}

/** `path` is the front door's: `/api/<service>/...`. Throws ApiError. */
export async function api<T>(path: string, options: Options = {}): Promise<T> {
  const response = await send(path, options);
  if (!response.ok) {
    const error = await problemOf(response);
    if (error.status === 401 && !options.bearer && !path.endsWith("/session")) onSignedOut();
    throw error;
  }
  return (response.status === 204 ? undefined : await response.json()) as T;
}

export function query(parameters: Record<string, string | number | undefined | null>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `?${text}` : "";
}
