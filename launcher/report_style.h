// The style sheet of reports: colours once for light, once for dark, and paper is light.
#pragma once

namespace savior {

inline constexpr const char* kReportStyle = R"css(
:root { color-scheme: light dark; --page: #fff; --ink: #1c2128; --dim: #5d6672; --rule: #d9dee4;
  --grid: #e9ecf0; --head: #f4f6f8; --switch: #7a3fb5; --rollback: #c22f2f; --abort: #7b838d;
  --c0: #2563b8; --c1: #d9730d; --c2: #24935a; --c3: #9a48b0; --c4: #c0392b; --c5: #0d8496;
  --c6: #8a6d1d; --c7: #667080; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e3e7ec; --dim: #97a1ad;
  --rule: #343c46; --grid: #262d35; --head: #1d232a; --switch: #c193f0; --rollback: #ff7b72;
  --abort: #98a2ad; --c0: #6ea8fe; --c1: #f5a35c; --c2: #5fce8f; --c3: #d79be8; --c4: #ff8a7a;
  --c5: #4fd1e0; --c6: #d8b656; --c7: #a3acba; } }
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --dim: #444; --rule: #bbb;
  --grid: #e4e4e4; --head: #f2f2f2; --switch: #7a3fb5; --rollback: #c22f2f; --abort: #6b737d;
  --c0: #2563b8; --c1: #d9730d; --c2: #24935a; --c3: #9a48b0; --c4: #c0392b; --c5: #0d8496;
  --c6: #8a6d1d; --c7: #667080; } }
body { background: var(--page); color: var(--ink); margin: 0 auto; padding: 1.5rem 1.25rem 3rem;
  max-width: 94rem; font: 15px/1.45 system-ui, "DejaVu Sans", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p.note, figcaption, .legend { color: var(--dim); }
p.note { max-width: 60rem; margin: .3rem 0 .7rem; font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1.2rem; margin: .6rem 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .4rem 0 .8rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { background: var(--head); font-weight: 600; text-align: left; } th.n { text-align: right; }
th, td { padding: .18rem .65rem; border-bottom: 1px solid var(--rule); }
td { text-align: left; } td.n { text-align: right; white-space: nowrap; }
td.long { max-width: 34rem; overflow-wrap: anywhere; }
.plots { display: grid; gap: 1rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 33rem), 1fr)); }
figure { margin: 0; break-inside: avoid; max-width: 60rem; }
figcaption { color: var(--ink); font-weight: 600; font-size: .92rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .1rem 0;
  padding: 0; font-size: .82rem; }
.legend i { display: inline-block; width: 1.1rem; height: 0; border-top: 3px solid;
  vertical-align: middle; margin-right: .35rem; }
.plot { display: block; width: 100%; height: auto; font-size: 11px; }
.plot text { fill: var(--dim); } .grid { stroke: var(--grid); } .axis { stroke: var(--dim); }
.plot polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.plot polygon { fill-opacity: .16; }
.level { stroke: var(--ink); stroke-dasharray: 6 4; stroke-opacity: .65; }
.key-level { border-top-style: dashed !important; border-top-width: 2px !important; }
.mark line { stroke-width: 1.2; } .mark-abort line { stroke-dasharray: 2 3; }
.mark-switch line { stroke: var(--switch); } .mark-switch text { fill: var(--switch); }
.mark-rollback line { stroke: var(--rollback); stroke-dasharray: 5 3; }
.mark-rollback text { fill: var(--rollback); }
.mark-abort line { stroke: var(--abort); } .mark-abort text { fill: var(--abort); }
.key-switch { color: var(--switch); } .key-rollback { color: var(--rollback); }
.key-abort { color: var(--abort); }
.line-0 { stroke: var(--c0); } .band-0, .dot-0 { fill: var(--c0); } .key-0 { color: var(--c0); }
.line-1 { stroke: var(--c1); } .band-1, .dot-1 { fill: var(--c1); } .key-1 { color: var(--c1); }
.line-2 { stroke: var(--c2); } .band-2, .dot-2 { fill: var(--c2); } .key-2 { color: var(--c2); }
.line-3 { stroke: var(--c3); } .band-3, .dot-3 { fill: var(--c3); } .key-3 { color: var(--c3); }
.line-4 { stroke: var(--c4); } .band-4, .dot-4 { fill: var(--c4); } .key-4 { color: var(--c4); }
.line-5 { stroke: var(--c5); } .band-5, .dot-5 { fill: var(--c5); } .key-5 { color: var(--c5); }
.line-6 { stroke: var(--c6); } .band-6, .dot-6 { fill: var(--c6); } .key-6 { color: var(--c6); }
.line-7 { stroke: var(--c7); } .band-7, .dot-7 { fill: var(--c7); } .key-7 { color: var(--c7); }
@media print { html { font-size: 10px; } body { max-width: none; padding: 0; font-size: 1rem; } h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; } .wide { overflow: visible; }
  .plots { grid-template-columns: 1fr 1fr; gap: .6rem; } }
)css";

}  // namespace savior
