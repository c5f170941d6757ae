"""Looking at runs: live progress and trackers while one goes on; its standing and its report at any time.

record     what a run directory says, read defensively       figures    worked out from it
html       the report (panels, charts, advice, template)     runs       `prefine runs` and `prefine status`
progress   bars on a terminal, lines in a log                trackers   TensorBoard, wandb, trackio
"""
