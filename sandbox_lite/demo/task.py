"""What the demo asks of a model, scripted or real."""

from __future__ import annotations

TASK = """\
The input directory holds what a river station measured in one year: rain.csv, stage.csv and \
nitrate.csv, one row a day or a bottle. Beside them are station_manual.md, which says how the \
yearly figures are made, and field_log.md, in which the observers wrote what went wrong. The \
tables are as logger and laboratory delivered them; the log tells what has to be corrected first.

Find the two yearly figures of section 9 of the manual: the nitrate load of the year in tonnes of \
nitrogen, and the storm share in percent.

Put into the output directory:
- answer.txt: one line with both figures, each with one decimal, written such as `12.3 t, 45.6 %`
- plot.png: a picture of rain, discharge, nitrate and the growth of the load through the year
- report.html: a short report in one file that needs no other, with both figures as in answer.txt, \
the plot (embedded), a table of months and the corrections that were made
"""
