import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect } from "react";
import { ApiError, api, setCsrfToken, whenSignedOut } from "./api";

const AUTH = "/api/auth-audit";
const KEY = ["session"];
const BY_HAND = ["signed-out-by-hand"];

export type Role = "admin" | "developer" | "viewer";

export interface Session {
  id: string;
  display: string;
  organisation: { id: string; name: string };
  role: Role;
  permissions: string[];
  must_change_password: boolean;
  csrf_token: string | null;
}

async function load(): Promise<Session | null> {
  try {
    const session = await api<Session>(`${AUTH}/session`);
    setCsrfToken(session.csrf_token ?? "");
    return session;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return null;
    throw error;
  }
}

/** Who is signed in; null is nobody. */
export function useSessionQuery() {
  const client = useQueryClient();
  useEffect(() => {
    // Asked again rather than believed: one service's 401 is not the end of the session.
    whenSignedOut(() => void client.invalidateQueries({ queryKey: KEY }));
  }, [client]);
  return useQuery({
    queryKey: KEY,
    queryFn: load,
    staleTime: 60_000,
    retry: (count, error) => retryable(error) && count < 3,
  });
}

function retryable(error: unknown): boolean {
  return error instanceof ApiError && error.disconnected;
}

export function useSignIn() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (credentials: { email: string; password: string }) =>
      api<Session>(`${AUTH}/session`, { method: "POST", body: credentials }),
    onSuccess: (session) => {
      setCsrfToken(session.csrf_token ?? "");
      client.removeQueries({ queryKey: BY_HAND });
      client.setQueryData(KEY, session);
    },
  });
}

export function useSignOut() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: () => api<void>(`${AUTH}/session`, { method: "DELETE" }),
    onSuccess: () => {
      setCsrfToken("");
      client.setQueryData(BY_HAND, true);
      client.setQueryData(KEY, null);
      // What one member has seen must not wait in memory for the next one.
      client.removeQueries({
        predicate: ({ queryKey }) => queryKey[0] !== KEY[0] && queryKey[0] !== BY_HAND[0],
      });
    },
  });
}

/** Whether the last session was ended here on purpose, so that nobody needs to be told that it ended. */
export function useSignedOutByHand(): boolean {
  return useQueryClient().getQueryData(BY_HAND) === true;
}

export function useChangePassword() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (passwords: { current_password: string; new_password: string }) =>
      api<void>(`${AUTH}/session/password`, { method: "PUT", body: passwords }),
    onSuccess: () => client.invalidateQueries({ queryKey: KEY }),
  });
}

const Context = createContext<Session | null>(null);

export function SessionProvider({ session, children }: { session: Session; children: ReactNode }) {
  return <Context.Provider value={session}>{children}</Context.Provider>;
}

export function useSession(): Session {
  const session = useContext(Context);
  if (!session) throw new Error("SessionProvider is missing");
  return session;
}

export function useMay(permission: string): boolean {
  return useSession().permissions.includes(permission);
}
