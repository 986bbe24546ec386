{{/* The Corefile that `servers` and `extraConfig` stand for, laid out as kubeadm's is. */}}
{{- define "clusterdns.corefile" -}}
{{- range $word, $line := .Values.extraConfig }}
{{- include "clusterdns.directive" (dict "indent" 0 "line" (set (deepCopy ($line | default dict)) "name" $word)) }}
{{ end }}
{{- $showsStatus := and .Values.status.enabled (not (hasSuffix "/coredns" .Values.image.repository)) }}
{{- range $i, $server := .Values.servers }}
{{- $port := .port | default 53 | int }}
{{- $keys := list }}
{{- range .zones | default (list (dict)) }}
{{- $keys = append $keys (printf "%s%s:%d" (.scheme | default "") (.zone | default ".") $port) }}
{{- end }}
{{- join " " $keys }} {
{{- range .plugins }}
{{ include "clusterdns.directive" (dict "indent" 4 "line" .) }}
{{- end }}
{{- if and $showsStatus (eq $i 0) }}
    status 127.0.0.1:{{ $.Values.status.port }}
{{- end }}
}
{{ end }}
{{- end -}}

{{/* One directive: name, parameters, block. Takes `indent` and `line`. */}}
{{- define "clusterdns.directive" -}}
{{- repeat (int .indent) " " }}{{ .line.name }}
{{- if hasKey .line "parameters" }}{{ with include "clusterdns.word" .line.parameters }} {{ . }}{{ end }}{{ end }}
{{- with .line.configBlock }} {
{{ . | trimSuffix "\n" | indent (int (add $.indent 3)) }}
{{ repeat (int $.indent) " " }}}
{{- end -}}
{{- end -}}

{{/* A parameter as text. Numbers of a values file are floats: 1000000 must not become 1e+06. */}}
{{- define "clusterdns.word" -}}
{{- if kindIs "string" . }}{{ . }}{{ else if not (kindIs "invalid" .) }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* A word if a plugin stands in one of the `servers`, else nothing. Takes the root and its name. */}}
{{- define "clusterdns.hasPlugin" -}}
{{- range (index . 0).Values.servers }}{{ range .plugins }}{{ if eq .name (index $ 1) }}yes{{ end }}{{ end }}{{ end -}}
{{- end -}}

{{/*
What NOTES.txt suggests to ask, as JSON of {port, how, question}: a name that a server has, a name of the
cluster before others, and without TLS before with it. Takes the root.
*/}}
{{- define "clusterdns.question" -}}
{{- $best := 0 }}{{ $found := dict "port" 53 "how" "+tcp" "question" "NAME" -}}
{{- range .Values.servers -}}
{{- $server := . -}}
{{- $inCluster := "" -}}
{{- range .plugins -}}{{- if eq .name "kubernetes" -}}
{{- $zones := without (splitList " " (toString (.parameters | default ""))) "" -}}
{{- range ($zones | default list) -}}{{- if not (or $inCluster (include "clusterdns.isReverse" .)) -}}{{- $inCluster = . -}}{{- end -}}{{- end -}}
{{- if not $zones -}}{{- $inCluster = (first ($server.zones | default (list (dict)))).zone | default "." -}}{{- end -}}
{{- end -}}{{- end -}}
{{- range .zones | default (list (dict)) -}}
{{- $zone := .zone | default "." | trimSuffix "." -}}
{{- $how := get (dict "tls://" "+tls" "https://" "+https") (.scheme | default "") | default "+tcp" -}}
{{- $question := ternary "example.com" (printf "%s SOA" $zone) (eq $zone "") -}}
{{- $worth := ternary 2 4 (eq $zone "") -}}
{{- if $inCluster -}}{{- $question = printf "kubernetes.default.svc.%s" (trimSuffix "." $inCluster) }}{{- $worth = 6 -}}
{{- else if include "clusterdns.isReverse" $zone -}}{{- $worth = 0 -}}{{- end -}}
{{- if eq $how "+tcp" -}}{{- $worth = ternary 0 (int (add $worth 1)) (eq (toString .use_tcp) "false") -}}{{- end -}}
{{- if gt (int $worth) (int $best) -}}
{{- $best = $worth -}}
{{- $found = dict "port" ($server.servicePort | default $server.port | default 53 | int) "how" $how "question" $question -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if or .Values.deployment.skipConfig (contains "{" $found.question) -}}{{- $_ := set $found "question" "NAME" -}}{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* A word if a zone is one of addresses, else nothing. */}}
{{- define "clusterdns.isReverse" -}}
{{- if or (contains "/" .) (hasSuffix ".arpa" (trimSuffix "." .)) }}yes{{ end -}}
{{- end -}}
