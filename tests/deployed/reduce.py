"""Writes what `sam build` would make of template.yaml, out of the release bootstraps, without what the emulator lacks.

python tests/deployed/reduce.py <repository> <directory> <address of the emulator> <address of Linear's API>

The emulator has no CodeDeploy, no query definitions, no dashboards and no metric math, imports no routes from the body of an API,
and hands numbers in an environment over as numbers, which CloudFormation makes into texts.
"""

import json
import pathlib
import shutil
import sys

from samtranslator.yaml_helper import yaml_parse

LACKING = {"AWS::Logs::QueryDefinition", "AWS::CloudWatch::Dashboard"}
OF_CODEDEPLOY = ["Preflight", "PreflightRole", "PreflightLogs"]


def lacks(resource):
    is_metric_math = resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]
    return resource["Type"] in LACKING or is_metric_math


def main():
    root, out, endpoint, linear = sys.argv[1:]
    root, out = pathlib.Path(root), pathlib.Path(out)
    template = yaml_parse((root / "template.yaml").read_text())
    resources = template["Resources"]
    for name in [name for name, resource in resources.items() if lacks(resource)] + OF_CODEDEPLOY:
        del resources[name]
    shared = template["Globals"]["Function"]
    del shared["CodeUri"]
    shared["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = endpoint
    for name, resource in resources.items():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        properties = resource["Properties"]
        del resource["Metadata"], properties["DeploymentPreference"]
        variables = properties["Environment"]["Variables"]
        variables.update({key: str(value) for key, value in variables.items() if isinstance(value, int)})
        if "LINEAR_API_URL" in variables:
            variables["LINEAR_API_URL"] = linear
        directory = out / name
        directory.mkdir()
        shutil.copy(root / "target/release" / name.lower(), directory / "bootstrap")
        properties["CodeUri"] = name
    (out / "template.json").write_text(json.dumps(template))


if __name__ == "__main__":
    main()
