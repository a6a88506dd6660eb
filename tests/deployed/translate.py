"""Writes the CloudFormation that AWS makes of template.yaml, as JSON, without an account.

python tests/deployed/translate.py > translated.json
"""

import json
import logging
import pathlib
import sys

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

logging.disable(logging.INFO)


class Regions:
    """What the translator asks of boto3: which region it is for."""

    region_name = "us-east-1"

    def get_partition_for_region(self, region_name):
        return "aws"


def main():
    root = pathlib.Path(__file__).parents[2]
    template = yaml_parse((root / "template.yaml").read_text())
    # `sam package` puts the bootstraps into a bucket and writes here where.
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/code.zip"
    # Every role is written out in the template: no managed policy is looked up.
    translator = Translator({}, Parser(), boto_session=Regions())
    translated = translator.translate(template, parameter_values={})
    json.dump(translated, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
