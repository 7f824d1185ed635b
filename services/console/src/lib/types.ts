/** What the services answer; only what the console reads. Money is integer nano-USD. */

export interface Amount {
  nano_usd: number;
  usd: string;
}

export type Mode = "manual" | "gpt" | "hybrid";
export type BotState = "stopped" | "starting" | "running" | "degraded" | "quarantined" | "error";

export interface Bot {
  id: string;
  name: string;
  mode: Mode;
  model: string;
  system_prompt: string;
  fallback_text: string;
  max_tokens: number;
  web_enabled: boolean;
  telegram_configured: boolean;
  desired_state: "running" | "stopped";
  observed_state: BotState;
  observed_reason: string;
  observed_at: string;
  created_at: string;
}

export interface NewBot {
  name: string;
  model: string;
  mode: Mode;
  system_prompt: string;
  fallback_text: string;
  max_tokens: number;
  web_enabled: boolean;
  telegram_token?: string;
}

export interface Conversation {
  id: string;
  bot_id: string;
  channel: string;
  external_chat_id: string;
  last_sequence: number;
  created_at: string;
}

export interface ChatMessage {
  id: string;
  turn_id: string;
  direction: "in" | "out";
  sequence: number;
  text: string;
  source: string | null;
  delivery: string;
  error: string | null;
  created_at: string;
  sent_at: string | null;
  trace_id: string | null;
}

export interface WebSession {
  token: string;
  conversation: string;
}

export interface WebMessage {
  message_id: string;
  sequence: number;
  author: "contact" | "bot";
  text: string;
  created_at: string;
}

export interface Budget {
  id: string;
  name: string;
  scope: "organisation" | "project" | "team" | "bot" | "contact" | "api_key" | "model";
  scope_id: string;
  limit: Amount;
  period: "hour" | "day" | "week" | "month" | "quarter" | "year" | "total" | "rolling";
  active: boolean;
  current: {
    starts_at: string;
    ends_at: string | null;
    limit: Amount;
    settled: Amount;
    leased: Amount;
    suspense: Amount;
    available: Amount;
    excess: Amount;
  };
}

export interface SpendRow {
  key: string | null;
  cost: Amount;
  attempts: number;
  unknown_attempts: number;
  input_tokens: number;
  output_tokens: number;
}

export interface FeedEvent {
  id: string;
  type: string;
  source: string;
  subject: string;
  time: string;
  organisation_id: string | null;
  causation_id: string | null;
  trace_id: string | null;
  data: Record<string, unknown>;
}

export type Health = "up" | "degraded" | "down";

export interface ServiceState {
  service: string;
  health: Health;
  detail: string;
  since: string;
  checked_at: string;
  latency_ms: number;
}
