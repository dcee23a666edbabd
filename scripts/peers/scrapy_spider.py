"""A Scrapy spider with JOBDIR and a CSV feed: ACCOUNTS_URL RATINGS_URL CA_BUNDLE FOLDER."""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from scores import FAILED, HEADER, cells
from scrapy import Request, Spider
from scrapy.crawler import CrawlerProcess


class Ratings(Spider):
    name = "ratings"
    handle_httpstatus_list = [404, 410, 422, 403]  # noqa: RUF012 - Scrapy's way

    async def start(self):
        yield self.page(None)

    def page(self, cursor):
        params = {"status": "active", "limit": 1000} | ({"cursor": cursor} if cursor else {})
        return Request(f"{self.accounts_url}?{urlencode(params)}", self.listed, priority=-1)

    def listed(self, response):
        page = json.loads(response.body)
        for account in page["accounts"]:
            account_id, name = account["accountId"], account["accountName"]
            url = self.ratings_url.replace("{account_id}", quote(account_id, safe=""))
            yield Request(
                url, self.rated, errback=self.failed, cb_kwargs={"account_id": account_id, "account": name}
            )
        if page["nextCursor"]:
            yield self.page(page["nextCursor"])

    def rated(self, response, account_id, account):
        outcome = cells(response.body) if response.status == 200 else FAILED
        yield dict(zip(HEADER, (account_id, account, *outcome), strict=True))

    def failed(self, failure):
        asked = failure.request.cb_kwargs
        yield dict(zip(HEADER, (asked["account_id"], asked["account"], *FAILED), strict=True))


def main(accounts_url, ratings_url, ca_bundle, folder):
    os.environ["SSL_CERT_FILE"] = ca_bundle
    process = CrawlerProcess(
        {
            "JOBDIR": str(Path(folder, "job")),
            "FEEDS": {str(Path(folder, "ratings.csv")): {"format": "csv", "fields": list(HEADER)}},
            "CONCURRENT_REQUESTS": 32,
            "CONCURRENT_REQUESTS_PER_DOMAIN": 32,
            "DOWNLOAD_DELAY": 0,
            "DOWNLOAD_TIMEOUT": 35,
            "RETRY_TIMES": 5,
            "ROBOTSTXT_OBEY": False,
            "COOKIES_ENABLED": False,
            "TELNETCONSOLE_ENABLED": False,
            "LOG_LEVEL": "WARNING",
        }
    )
    process.crawl(Ratings, accounts_url=accounts_url, ratings_url=ratings_url)
    process.start()


main(*sys.argv[1:])
