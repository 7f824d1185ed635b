import { type ReactNode, useEffect, useRef, useState } from "react";

/** Content that may be wider than its panel. It takes the focus only while there is something to scroll to. */
export function Wide({ width, children }: { width: number; children: ReactNode }) {
  const frame = useRef<HTMLDivElement>(null);
  const [scrolls, setScrolls] = useState(false);
  useEffect(() => {
    const element = frame.current;
    if (!element) return;
    const watch = new ResizeObserver(() => setScrolls(element.scrollWidth > element.clientWidth));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  return (
    <div ref={frame} style={{ overflowX: "auto" }} tabIndex={scrolls ? 0 : undefined}>
      <div style={{ minWidth: width }}>{children}</div>
    </div>
  );
}
