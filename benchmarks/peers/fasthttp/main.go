// The next number by fasthttp: fasthttp PORT
package main

import (
	"bytes"
	"log"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/valyala/fasthttp"
)

func main() {
	var id atomic.Int64
	prefix := []byte("/api/segment/get/")
	log.Fatal(fasthttp.ListenAndServe("127.0.0.1:"+os.Args[1], func(ctx *fasthttp.RequestCtx) {
		if path := ctx.Path(); !bytes.HasPrefix(path, prefix) || len(path) == len(prefix) {
			ctx.Error("not found", fasthttp.StatusNotFound)
			return
		}
		ctx.SetContentType("text/plain")
		ctx.SetBody(strconv.AppendInt(nil, id.Add(1), 10))
	}))
}
