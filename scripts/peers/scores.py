"""What every peer does alike: from an answer's body to the file's row."""

import csv
import json
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

HEADER = (
    "Account ID",
    "Account Name",
    "Environmental Score",
    "Social Score",
    "Governance Score",
    "Overall ESG Score",
    "Processing Status",
)
NAMES = ("environmental", "social", "governance", "overall")
FAILED = ("N/A", "N/A", "N/A", "N/A", "Failed")
CENT, ZERO = Decimal("0.01"), Decimal("0.00")


def cells(body):
    """The scores with two decimals, and the status."""
    scores = json.loads(body, parse_float=Decimal, parse_int=Decimal)["scores"]
    rounded = (Decimal(scores[name]).quantize(CENT, ROUND_HALF_UP) for name in NAMES)
    return (*(str(score or ZERO) for score in rounded), "Success")


def write_csv(path, rows):
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
